// Draws the charts that the page holds as JSON, in the light or dark colours that the reader prefers.
(function () {
  "use strict";
  var figures = JSON.parse(document.getElementById("figures").textContent);
  var dark = window.matchMedia("(prefers-color-scheme: dark)");
  function colours() {
    var style = getComputedStyle(document.documentElement);
    var ink = style.getPropertyValue("--ink").trim(), line = style.getPropertyValue("--line").trim();
    var card = style.getPropertyValue("--card").trim();
    var change = { "font.color": ink, "hoverlabel.bgcolor": card, "hoverlabel.font.color": ink };
    ["xaxis", "yaxis"].forEach(function (axis) {
      change[axis + ".gridcolor"] = line; change[axis + ".linecolor"] = line; change[axis + ".zerolinecolor"] = line;
    });
    return change;
  }
  function paint() {
    Object.keys(figures).forEach(function (name) { Plotly.relayout("chart-" + name, colours()); });
  }
  var drawn = Object.keys(figures).map(function (name) {
    return Plotly.newPlot("chart-" + name, figures[name].data, figures[name].layout,
      { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] });
  });
  Promise.all(drawn).then(paint).then(function () { document.body.setAttribute("data-drawn", drawn.length); });
  dark.addEventListener("change", paint);
})();
