#include "report/page_parts.h"

#include <fmt/format.h>

#include "report/html_text.h"

namespace weft {
namespace {

constexpr std::string_view kStyle = R"css(
:root { color-scheme: light dark; --text: #1c2330; --dim: #6a7280; --page: #f6f7f9; --card: #fff; --rule: #e3e6ea;
  --k0: #2563eb; --k1: #d9480f; --k2: #2b8a3e; --k3: #9c36b5; --k4: #0b7285; --k5: #c2255c; --k6: #8d6b00; --k7: #5c677d; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e7ec; --dim: #98a1b0; --page: #14171c; --card: #1d2128;
  --rule: #323842; --k0: #74a5ff; --k1: #ff922b; --k2: #69db7c; --k3: #da77f2; --k4: #3bc9db; --k5: #f783ac;
  --k6: #ffd43b; --k7: #adb5bd; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 92rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
.dim { color: var(--dim); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: .7rem; margin: 1.2rem 0; }
.cards div, figure, table, details, .sample { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; }
.cards div { padding: .6rem .8rem; } .cards b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); gap: .9rem; }
figure { margin: 0; padding: .7rem .8rem .4rem; position: relative; }
figcaption { font-weight: 600; margin-bottom: .3rem; }
.key { font-weight: 400; font-size: .85rem; margin-left: .9rem; }
.key::before { content: ""; display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .35em;
  background: currentColor; vertical-align: -.05em; }
svg { width: 100%; height: auto; display: block; overflow: visible; }
svg text { fill: var(--dim); font-size: 12px; }
svg path { fill: none; stroke: currentColor; stroke-width: 1.7; stroke-linejoin: round; }
svg circle { fill: currentColor; } .faint { opacity: .3; stroke-width: 1; }
.grid { stroke: var(--rule); } .axis { stroke: var(--dim); } .mark { stroke: var(--k1); stroke-width: 2; }
.cursor { stroke: var(--dim); stroke-dasharray: 3 3; }
.c0 { color: var(--k0); } .c1 { color: var(--k1); } .c2 { color: var(--k2); } .c3 { color: var(--k3); }
.c4 { color: var(--k4); } .c5 { color: var(--k5); } .c6 { color: var(--k6); } .c7 { color: var(--k7); }
.tip { position: absolute; pointer-events: none; z-index: 1; padding: .3rem .55rem; border-radius: 6px; font-size: .85rem;
  background: var(--text); color: var(--page); white-space: nowrap; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .7rem; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { color: var(--dim); font-weight: 600; } td.number, th.number { text-align: right; white-space: nowrap; }
tr:last-child td { border-bottom: 0; }
.sample { padding: .6rem .8rem; margin-bottom: .6rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.sample .dim { display: block; font-size: .85rem; }
details { padding: .6rem .8rem; } summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; font-size: .85rem; }
)css";

constexpr std::string_view kScript = R"js(
'use strict';
// The values under the pointer: each plot carries its points in data-plot.
function format(value) {
  if (value === null) return 'not finite';
  const size = Math.abs(value);
  if (Number.isInteger(value) || size >= 1e5) return Math.round(value).toLocaleString('en').replaceAll(',', '\u202f');
  return size !== 0 && size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(5)));
}
function nearest(xs, x) {
  let low = 0, high = xs.length - 1;
  while (high - low > 1) { const middle = (low + high) >> 1; if (xs[middle] < x) low = middle; else high = middle; }
  return x - xs[low] < xs[high] - x ? low : high;
}
for (const svg of document.querySelectorAll('svg[data-plot]')) {
  const plot = JSON.parse(svg.dataset.plot);
  const [left, right, xLow, xHigh] = plot.x;
  const [bottom, top, yLow, yHigh, isLogarithmic] = plot.y;
  const xPlace = x => left + (x - xLow) / (xHigh - xLow) * (right - left);
  const yPart = y => isLogarithmic ? Math.log(y / yLow) / Math.log(yHigh / yLow) : (y - yLow) / (yHigh - yLow);
  const layer = document.createElementNS(svg.namespaceURI, 'g');
  svg.append(layer);
  const add = (name, attributes) => {
    const element = document.createElementNS(svg.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    layer.append(element);
  };
  let tip = null;
  const clear = () => { layer.replaceChildren(); tip?.remove(); tip = null; };
  svg.addEventListener('pointerleave', clear);
  svg.addEventListener('pointermove', event => {
    clear();
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    if (point.x < left - 8 || point.x > right + 8) return;
    const x = xLow + (point.x - left) / (right - left) * (xHigh - xLow);
    const curves = plot.curves.filter(curve => curve.x.length > 0).map(curve => ({curve, i: nearest(curve.x, x)}));
    if (curves.length === 0) return;
    const closest = curves.reduce((a, b) => Math.abs(a.curve.x[a.i] - x) <= Math.abs(b.curve.x[b.i] - x) ? a : b);
    const place = xPlace(closest.curve.x[closest.i]);
    add('line', {class: 'cursor', x1: place, x2: place, y1: top, y2: bottom});
    tip = document.createElement('div');
    tip.className = 'tip';
    for (const {curve, i} of curves) {
      const y = curve.y[i];
      if (y !== null) {
        const height = bottom + yPart(y) * (top - bottom);
        add('circle', {class: 'c' + curve.colour, r: 4, cx: xPlace(curve.x[i]), cy: height});
      }
      const line = document.createElement('div');
      line.textContent = `${curve.name ? curve.name + '  ' : ''}${format(y)}  (${plot.label} ${format(curve.x[i])})`;
      tip.append(line);
    }
    svg.parentElement.append(tip);
    const box = svg.parentElement.getBoundingClientRect();
    const beside = event.clientX - box.left + 14;
    tip.style.left = Math.max(0, Math.min(beside, box.width - tip.offsetWidth - 8)) + 'px';
    tip.style.top = event.clientY - box.top + 16 + 'px';
  });
}
)js";

}  // namespace

std::string render_page(std::string_view title, std::string_view body, bool reloads) {
  std::string page = "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n";
  page += R"(<meta name="viewport" content="width=device-width, initial-scale=1">)";
  // Nothing is fetched, and nothing that slipped in may run: the page's own style and script are all that it needs.
  page += R"(<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; )"
          R"(script-src 'unsafe-inline'">)";
  if (reloads) page += R"(<meta http-equiv="refresh" content="30">)";
  page += fmt::format("\n<title>{}</title>\n<style>{}</style>\n", escape_html(title, 200), kStyle);
  page += body;
  page += fmt::format("<script>{}</script>\n</html>\n", kScript);
  return page;
}

}  // namespace weft
