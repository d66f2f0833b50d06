// Draws the charts that the page holds as JSON; sorts, filters and copies. Colours are those of page.css.
(function () {
  "use strict";
  var figures = JSON.parse(document.getElementById("page-figures").textContent);
  var names = Object.keys(figures);
  var PRINTED = 680;  // pixels of a chart on paper: within the margins of A4 and Letter

  function resized(width) {
    return Promise.all(names.map(function (name) {
      return Plotly.relayout("chart-" + name, width ? { width: width } : { width: null, autosize: true });
    }));
  }

  // A chart in which the reader chooses a stretch of time shows it in all others that share the axis.
  var moving = false;
  function link(name) {
    var axis = figures[name].layout.meta.linked;
    if (!axis) { return; }
    document.getElementById("chart-" + name).on("plotly_relayout", function (change) {
      var range = change["xaxis.range"] || [change["xaxis.range[0]"], change["xaxis.range[1]"]];
      var reset = change["xaxis.autorange"] === true;
      if (moving || !(reset || range[0] !== undefined)) { return; }
      moving = true;
      var same = names.filter(function (other) { return other !== name && figures[other].layout.meta.linked === axis; });
      Promise.all(same.map(function (other) {
        return Plotly.relayout("chart-" + other, reset ? { "xaxis.autorange": true } : { "xaxis.range": range.slice() });
      })).then(function () { moving = false; });
    });
  }
  function draw() {
    return Promise.all(names.map(function (name) {
      // Plotly takes the height from here whenever the window changes.
      document.getElementById("chart-" + name).style.height = figures[name].layout.height + "px";
      return Plotly.newPlot("chart-" + name, figures[name].data, figures[name].layout,
        { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] });
    })).then(function () {
      names.forEach(link);
      document.body.setAttribute("data-drawn", names.length);
      window.matchMedia("print").addEventListener("change", function (change) { resized(change.matches ? PRINTED : 0); });
      window.addEventListener("beforeprint", function () { resized(PRINTED); });
      window.addEventListener("afterprint", function () { resized(0); });
    });
  }

  // plotly.js is in the page as compressed text.
  function load() {
    var text = atob(document.getElementById("page-plotly").textContent);
    var bytes = Uint8Array.from(text, function (c) { return c.charCodeAt(0); });
    var plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(plain).text().then(function (code) {
      var script = document.createElement("script");
      script.textContent = code;
      document.head.appendChild(script);
    });
  }
  if (typeof DecompressionStream === "undefined") {
    names.forEach(function (name) {
      document.getElementById("chart-" + name).textContent = "This browser is too old to draw the picture. The query below gives its numbers.";
    });
  } else {
    load().then(draw);
  }

  function value(row, column) {
    var cell = row.cells[column];
    return cell.classList.contains("n") ? (cell.dataset.v === undefined ? null : Number(cell.dataset.v)) : cell.textContent;
  }
  function compared(a, b) {
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
  }
  document.querySelectorAll(".sort").forEach(function (button) {
    button.addEventListener("click", function () {
      var head = button.parentElement, body = head.closest("table").tBodies[0], column = head.cellIndex;
      var number = head.classList.contains("n");
      var before = head.getAttribute("aria-sort");
      var down = before ? before === "ascending" : number;
      head.parentElement.querySelectorAll("th").forEach(function (other) { other.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      var rows = Array.from(body.rows).map(function (row) { return [value(row, column), row]; });
      rows.sort(function (a, b) {
        if (a[0] === null || b[0] === null) { return (a[0] === null) - (b[0] === null); }  // the unknown last
        return (down ? -1 : 1) * compared(a[0], b[0]);
      });
      rows.forEach(function (pair) { body.appendChild(pair[1]); });
    });
  });
  document.querySelectorAll(".filter input").forEach(function (input) {
    var rows = Array.from(document.getElementById(input.dataset.table).tBodies[0].rows);
    var count = input.closest(".filter").querySelector("output");
    input.addEventListener("input", function () {
      var words = input.value.toLowerCase().split(/\s+/), left = 0;
      rows.forEach(function (row) {
        var text = row.textContent.toLowerCase();
        row.hidden = !words.every(function (word) { return text.indexOf(word) >= 0; });
        left += row.hidden ? 0 : 1;
      });
      count.textContent = left + " of " + rows.length + " rows";
    });
  });
  function copied(text) {
    if (navigator.clipboard && window.isSecureContext) { return navigator.clipboard.writeText(text); }
    var area = document.createElement("textarea");
    area.value = text;
    document.body.appendChild(area);
    area.select();
    var done = document.execCommand("copy");
    area.remove();
    return done ? Promise.resolve() : Promise.reject(new Error("not allowed"));
  }
  document.querySelectorAll(".copy").forEach(function (button) {
    button.addEventListener("click", function () {
      copied(button.parentElement.querySelector("code").textContent).then(
        function () { button.textContent = "Copied"; }, function () { button.textContent = "Select and copy"; });
    });
  });

  // The contents are open beside the report, and closed above it.
  var contents = document.querySelector("nav details");
  var wide = window.matchMedia("(min-width: 1200px)");
  function fold() { contents.open = wide.matches; }
  wide.addEventListener("change", fold);
  fold();
  contents.addEventListener("click", function (event) { if (event.target.tagName === "A" && !wide.matches) { contents.open = false; } });
})();
