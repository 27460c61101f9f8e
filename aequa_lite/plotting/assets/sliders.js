  function nearest(levels, x) {  // a tie goes to the lower level
    var low = 0, high = levels.length - 1;
    while (low < high) {
      var k = (low + high) >> 1;
      if (x > (levels[k] + levels[k + 1]) / 2) { low = k + 1; } else { high = k; }
    }
    return low;
  }
  function lowest(levels, x) {  // the lowest level that is not below x; the highest where there is none
    var k = 0;
    while (k < levels.length - 1 && levels[k] < x - 1e-12) { k++; }
    return k;
  }
  function best(b, levels, weight, rational) {  // the sweep over tau: try the plan between every two distinct events
    var events = [], found = null;
    var floor = b.map(function (x) { return rational ? lowest(levels, x) : 0; });
    for (var i = 0; i < b.length; i++) {
      for (var k = 0; k + 1 < levels.length; k++) { events.push((levels[k] + levels[k + 1]) / 2 - b[i]); }
    }
    events.sort(function (x, y) { return x - y; });
    var taus = events.length ? [events[0] - 1e-9] : [0];
    for (var e = 0; e < events.length; e++) {
      if (e + 1 === events.length) { taus.push(events[e] + 1e-9); }
      else if (events[e + 1] - events[e] > 1e-13) { taus.push((events[e] + events[e + 1]) / 2); }
    }
    taus.forEach(function (tau) {
      var plan = b.map(function (x, i) { return Math.max(floor[i], nearest(levels, x + tau)); });
      var gains = plan.map(function (p, j) { return levels[p] - b[j]; });
      var mean = gains.reduce(function (s, g) { return s + g; }, 0) / b.length;
      var spread = Math.sqrt(gains.reduce(function (s, g) { return s + (g - mean) * (g - mean); }, 0) / b.length);
      var value = (spread < 1e-12 ? 0 : spread) - weight * mean;
      if (found === null || value <= found.value + 1e-14) { found = { value: value, plan: plan }; }  // among equals more gain
    });
    return found.plan;
  }
