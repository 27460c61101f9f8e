/* Tables that sort by a click on a column's title, filter by a field, and save what they show as CSV; nothing is fetched. */
(function () {
  "use strict";
  var LEAST = 6; // rows from which on a table is worth it

  function value(cell) {
    var text = cell.textContent.trim(), found = text.replace(/\u2212/g, "-").match(/^[-+]?[\d,]*\.?\d+(e[-+]?\d+)?/i);
    return found ? parseFloat(found[0].replace(/,/g, "")) : text.toLowerCase();
  }

  function compare(a, b) {
    var numbers = typeof a === "number" && typeof b === "number";
    if (!numbers && typeof a !== typeof b) { return typeof a === "number" ? -1 : 1; }
    return a < b ? -1 : a > b ? 1 : 0;
  }

  function quoted(text) { return '"' + text.trim().replace(/\s+/g, " ").replace(/"/g, '""') + '"'; }

  function csv(table) {
    return Array.from(table.rows).filter(function (row) { return !row.hidden; }).map(function (row) {
      return Array.from(row.cells).map(function (cell) { return quoted(cell.textContent); }).join(",");
    }).join("\n") + "\n";
  }

  function title(table) {
    var section = table.closest("section");
    return ((section && section.id) || "table") + ".csv";
  }

  function sort(table, column, head) {
    var up = head.getAttribute("aria-sort") !== "ascending", body = table.tBodies[0];
    Array.from(head.parentNode.cells).forEach(function (cell) { cell.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    Array.from(body.rows).map(function (row, k) { return [value(row.cells[column]), k, row]; })
      .sort(function (a, b) { return (up ? 1 : -1) * compare(a[0], b[0]) || a[1] - b[1]; })
      .forEach(function (each) { body.appendChild(each[2]); });
  }

  function equip(table) {
    var head = table.tHead && table.tHead.rows[0];
    if (!head || table.tHead.rows.length > 1 || !table.tBodies[0] || table.tBodies[0].rows.length < LEAST) { return; }
    table.classList.add("sorts");
    Array.from(head.cells).forEach(function (cell, column) {
      // a button needs a name: an empty title does not sort; and it holds no link: a title keeps the words of one
      if (!cell.textContent.trim()) { return; }
      Array.from(cell.querySelectorAll("a")).forEach(function (link) {
        link.replaceWith.apply(link, Array.from(link.childNodes));
      });
      var button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      while (cell.firstChild) { button.appendChild(cell.firstChild); }
      cell.appendChild(button);
      button.addEventListener("click", function () { sort(table, column, cell); });
    });
    var bar = document.createElement("div"), field = document.createElement("input"), save = document.createElement("a");
    var count = document.createElement("span"), rows = Array.from(table.tBodies[0].rows);
    bar.className = "table-bar";
    field.type = "search";
    field.placeholder = "filter";
    field.setAttribute("aria-label", "Filter the rows of the table");
    save.textContent = "CSV";
    save.href = "#";
    save.download = title(table);
    save.setAttribute("aria-label", "Save the rows shown as CSV");
    save.addEventListener("click", function () { save.href = "data:text/csv;charset=utf-8," + encodeURIComponent(csv(table)); });
    count.setAttribute("aria-live", "polite");
    field.addEventListener("input", function () {
      var words = field.value.toLowerCase().split(/\s+/), shown = 0;
      rows.forEach(function (row) {
        var text = row.textContent.toLowerCase();
        row.hidden = !words.every(function (word) { return text.indexOf(word) >= 0; });
        shown += !row.hidden;
      });
      count.textContent = field.value ? shown + " of " + rows.length + " rows" : "";
    });
    bar.append(field, save, count);
    table.parentNode.insertBefore(bar, table);
  }

  document.addEventListener("DOMContentLoaded", function () {
    document.querySelectorAll("article table.table, article table.docutils").forEach(equip);
  });
})();
