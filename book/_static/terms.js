/* Show what a glossary's term means where a link to it is pointed at or focused; Escape hides it. */
(function () {
  "use strict";
  document.addEventListener("DOMContentLoaded", function () {
    var note = document.createElement("div");
    note.id = "term-note";
    note.setAttribute("role", "tooltip");
    note.hidden = true;
    document.body.appendChild(note);
    function hide() { note.hidden = true; }
    function show(event) {
      var link = event.currentTarget, place = link.getBoundingClientRect();
      note.textContent = link.dataset.meaning;
      note.hidden = false;
      var left = Math.min(place.left, document.documentElement.clientWidth - note.offsetWidth - 8);
      note.style.left = Math.max(8, left) + window.scrollX + "px";
      note.style.top = place.bottom + window.scrollY + 4 + "px";
      link.setAttribute("aria-describedby", "term-note");
    }
    document.querySelectorAll("a[data-meaning]").forEach(function (link) {
      ["mouseenter", "focus"].forEach(function (name) { link.addEventListener(name, show); });
      ["mouseleave", "blur"].forEach(function (name) { link.addEventListener(name, hide); });
    });
    document.addEventListener("keydown", function (event) { if (event.key === "Escape") { hide(); } });
  });
})();
