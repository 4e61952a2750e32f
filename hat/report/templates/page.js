"use strict";
// Draws the charts of the page as SVG. Texts go in as text only, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const FIELDS = ["Loss", "Predicted", "Upper bound", "Measured"];

  function add(parent, tag, attributes = {}, text = null, space = "http://www.w3.org/2000/svg") {
    const made = document.createElementNS(space, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== null) made.textContent = text;
    parent.appendChild(made);
    return made;
  }
  const html = (parent, tag, attributes, text) => add(parent, tag, attributes, text, "http://www.w3.org/1999/xhtml");
  const plain = (value) => String(Number(Number(value).toPrecision(5)));

  function ticks(low, high, count) {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((each) => each * power >= rough);
    const found = [];
    for (let at = Math.ceil(low / step); at * step <= high; at++) found.push(Number((at * step).toPrecision(12)));
    return found;
  }

  function mark(kind, x, y, r) { // path of a mark
    const a = r * 0.95;
    switch (kind) {
      case "square": return `M${x - a} ${y - a}h${2 * a}v${2 * a}h${-2 * a}z`;
      case "triangle": return `M${x - r * 1.1} ${y - a}h${2.2 * r}L${x} ${y + r * 1.1}z`;
      case "diamond": return `M${x} ${y - r * 1.25}L${x + r * 1.25} ${y}L${x} ${y + r * 1.25}L${x - r * 1.25} ${y}z`;
      case "cross": return `M${x - a} ${y - a}l${2 * a} ${2 * a}M${x - a} ${y + a}l${2 * a} ${-2 * a}`;
      default: return `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`;
    }
  }
  const isMark = (series) => !["line", "step"].includes(series.kind);
  function style(series) {
    if (series.kind === "ring") return { fill: "none", stroke: "currentColor", "stroke-width": 2 };
    if (series.kind === "cross") return { fill: "none", stroke: "currentColor", "stroke-width": 2.5 };
    if (isMark(series)) {
      const large = series.size >= 6 ? { stroke: "var(--paper)", "stroke-width": 1.5 } : {};
      return { fill: "currentColor", "fill-opacity": series.size < 4 ? 0.75 : 1, ...large };
    }
    return { fill: "none", stroke: "currentColor", "stroke-width": 2 };
  }

  // One architecture as bars, layer by layer, before those of the largest of the space.
  const size = (dim, value) => Array.isArray(value) ? value.map((each) => dim.codes?.[each] ?? each) : value;
  function drawArch(parent, number) {
    const values = data.archs[number], most = data.archs[data.largest ?? number];
    for (const side of ["encoder", "decoder"]) {
      const own = data.dims.map((dim, at) => ({ ...dim, value: size(dim, values[at]), most: size(dim, most[at]) })).filter((each) => each.side === side);
      const lists = own.filter((each) => Array.isArray(each.value));
      const sizes = own.filter((each) => !Array.isArray(each.value));
      const box = html(parent, "div");
      html(box, "h3", {}, `${side[0].toUpperCase()}${side.slice(1)}: ${sizes.map((each) => `${each.name} ${each.value}`).join(", ")}`);
      const table = html(box, "table");
      const head = html(html(table, "thead"), "tr");
      html(head, "th");
      for (const each of lists) html(head, "th", {}, each.name);
      const body = html(table, "tbody");
      const layers = Math.max(...lists.map((each) => Math.max(each.value.length, each.most.length)));
      for (let layer = 0; layer < layers; layer++) {
        const row = html(body, "tr");
        html(row, "td", {}, String(layer + 1));
        for (const each of lists) {
          const cell = html(row, "td");
          if (layer >= each.most.length && layer >= each.value.length) continue;
          const bar = html(cell, "i"), top = Math.max(...each.most, ...each.value);
          if (layer < each.value.length) {
            html(bar, "b", { style: `width:${Math.round(100 * each.value[layer] / top)}%` }, String(each.value[layer]));
          }
        }
      }
    }
  }

  function yaml(number) {
    const line = (value) => Array.isArray(value) ? `[${value.join(", ")}]` : value;
    return data.dims.map(({ key }, at) => `${key}: ${line(data.archs[number][at])}\n`).join("");
  }

  function showDetail(panel, point, series, kept) {
    panel.replaceChildren();
    html(panel, "h3", {}, point[2] || series.name.replace(/ \(.*/, ""));
    const list = html(panel, "dl");
    FIELDS.forEach((name, at) => {
      const value = point[3 + at];
      html(list, "dt", {}, name);
      html(list, "dd", {}, value == null ? "\u2013" : at ? `${value.toFixed(2)} ms` : value.toFixed(4));
    });
    const number = point[7];
    if (number == null) return;
    drawArch(html(panel, "div", { class: "arch" }), number);
    if (!kept) return;
    const button = html(panel, "button", { type: "button" }, "Copy as YAML");
    button.addEventListener("click", () => {
      const text = yaml(number), done = () => { button.textContent = "Copied"; };
      const otherwise = () => html(panel, "pre", {}, text);
      navigator.clipboard ? navigator.clipboard.writeText(text).then(done, otherwise) : otherwise();
    });
  }

  class Chart {
    constructor(box) {
      this.box = box;
      this.chart = data.charts[box.dataset.chart];
      this.panel = box.dataset.detail ? document.getElementById(box.dataset.detail) : null;
      this.hidden = new Set();
      html(box, "h3", {}, this.chart.title);
      this.legend();
      this.svg = add(box, "svg", { tabindex: "0", role: "img" });
      this.svg.setAttribute("aria-label", `${this.chart.title}: ${this.chart.y} against ${this.chart.x}. Arrow keys go from point to point.`);
      this.tip = html(box, "div", { class: "tip" });
      this.svg.addEventListener("pointermove", (event) => this.point(this.nearest(event), false));
      this.svg.addEventListener("pointerleave", () => this.point(null, false));
      this.svg.addEventListener("click", (event) => this.point(this.nearest(event), true));
      this.svg.addEventListener("keydown", (event) => this.key(event));
      this.svg.addEventListener("blur", () => this.point(null, false));
      const found = this.chart.series.find((each) => each.name === "found") ?? this.chart.series.find((each) => each.kind === "step");
      if (this.panel && found) this.keep({ point: found.points[0], series: found });
      this.draw();
      new ResizeObserver(() => requestAnimationFrame(() => this.draw())).observe(box);
    }

    legend() {
      if (this.chart.series.length < 2) return;
      const list = html(this.box, "div", { class: "legend" });
      this.chart.series.forEach((series, number) => {
        const button = html(list, "button", { type: "button", "aria-pressed": "true" });
        const key = add(button, "svg", { class: series.colour, viewBox: "0 0 18 14" });
        add(key, "path", { d: isMark(series) ? mark(series.kind, 9, 7, Math.min(series.size, 5)) : "M0 7h18", ...style(series) });
        html(button, "span", {}, series.name);
        button.addEventListener("click", () => {
          this.hidden.has(number) ? this.hidden.delete(number) : this.hidden.add(number);
          button.setAttribute("aria-pressed", String(!this.hidden.has(number)));
          this.width = 0;
          this.draw();
        });
      });
    }

    draw() {
      const width = Math.round(this.box.clientWidth);
      if (!width || width === this.width) return;
      this.width = width;
      const { chart, svg } = this, tall = chart.section === "front" ? 0.62 : chart.equal ? 0.8 : 0.6;
      const height = Math.round(Math.min(480, Math.max(260, tall * width)));
      const left = 48, right = width - 12, top = chart.limits_ms.length ? 36 : 22, bottom = height - 42;
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.setAttribute("height", height);
      svg.replaceChildren();
      const shown = chart.series.filter((each, number) => !this.hidden.has(number));
      const every = shown.flatMap((each) => each.points);
      const range = (values, room) => {
        const low = Math.min(...values), high = Math.max(...values), more = room * (high - low || Math.abs(high) || 1);
        return [low - more, high + more];
      };
      let [x0, x1] = range([...every.map((point) => point[0]), ...chart.limits_ms], 0.04), [y0, y1] = range(every.map((point) => point[1]), 0.07);
      if (!every.length) [x0, x1, y0, y1] = [0, 1, 0, 1];
      if (chart.equal) [x0, x1, y0, y1] = [Math.min(x0, y0), Math.max(x1, y1), Math.min(x0, y0), Math.max(x1, y1)];
      const sx = (value) => left + (value - x0) / (x1 - x0) * (right - left);
      const sy = (value) => bottom - (value - y0) / (y1 - y0) * (bottom - top);
      for (const value of ticks(y0, y1, height / 60)) {
        add(svg, "line", { x1: left, x2: right, y1: sy(value), y2: sy(value) });
        add(svg, "text", { x: left - 8, y: sy(value) + 4, "text-anchor": "end" }, value);
      }
      for (const value of ticks(x0, x1, Math.max(4, width / 90))) add(svg, "text", { x: sx(value), y: bottom + 18, "text-anchor": "middle" }, value);
      add(svg, "text", { x: right, y: height - 4, "text-anchor": "end" }, `${chart.x} \u2192`);
      add(svg, "text", { x: 0, y: 11 }, `\u2191 ${chart.y}`);
      if (chart.equal) {
        const at = (x, factor) => `${sx(x)} ${Math.min(bottom, Math.max(top, sy(factor * x)))}`;
        add(svg, "path", { class: "band", d: `M${at(x0, 0.95)}L${at(x1, 0.95)}L${at(x1, 1.05)}L${at(x0, 1.05)}z` });
        add(svg, "line", { x1: sx(x0), y1: sy(x0), x2: sx(x1), y2: sy(x1) });
      }
      let last = -Infinity;
      for (const limit of chart.limits_ms) {
        add(svg, "line", { class: "limit", x1: sx(limit), x2: sx(limit), y1: top, y2: bottom });
        if (sx(limit) - last > 64) {
          add(svg, "text", { class: "limit", x: sx(limit), y: top - 4, "text-anchor": "middle" }, `${plain(limit)} ms`);
          last = sx(limit);
        }
      }
      this.places = [];
      const names = [];
      for (const series of shown) {
        const group = add(svg, "g", { class: series.colour });
        const at = series.points.map((point) => ({ point, series, x: sx(point[0]), y: sy(point[1]) }));
        this.places.push(...at);
        if (isMark(series)) {
          for (const each of at) {
            add(group, "path", { d: mark(series.kind, each.x, each.y, series.size), ...style(series) });
            if (each.point[2] && series.size >= 6) names.push(each);
          }
          continue;
        }
        const path = at.map((each, n) => n && series.kind === "step" ? `H${each.x}V${each.y}` : `${n ? "L" : "M"}${each.x} ${each.y}`);
        add(group, "path", { d: path.join(""), "stroke-linejoin": "round", ...style(series) });
        if (at.length < 60) {
          for (const each of at) add(group, "circle", { cx: each.x, cy: each.y, r: 2.75, fill: "currentColor" });
        }
      }
      this.label(names, { left, right, top, bottom });
      this.here = add(svg, "circle", { class: "here", r: 0 });
      if (this.kept) this.ring(this.places.find((each) => each.point === this.kept.point));
    }

    // Names beside marks, if there is room: none lies on another, on a mark or outside.
    label(names, room) {
      const taken = names.map((each) => [each.x - 7, each.y - 7, each.x + 7, each.y + 7]);
      for (const each of names.reverse()) {
        for (const [dx, dy, anchor] of [[11, 4, "start"], [-11, 4, "end"], [0, -12, "middle"], [0, 20, "middle"]]) {
          const text = add(this.svg, "text", { class: "name", x: each.x + dx, y: each.y + dy, "text-anchor": anchor }, each.point[2]);
          const found = text.getBBox(), box = [found.x, found.y, found.x + found.width, found.y + found.height];
          const free = box[0] > room.left && box[2] < room.right && box[1] > room.top && box[3] < room.bottom
            && !taken.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3]);
          if (free) { taken.push(box); break; }
          text.remove();
        }
      }
    }

    nearest(event) {
      const frame = this.svg.getBoundingClientRect(), x = event.clientX - frame.left, y = event.clientY - frame.top;
      let best = null, least = 40 ** 2;
      for (const each of this.places) {
        const far = (each.x - x) ** 2 + (each.y - y) ** 2 - each.series.size ** 2; // large marks are on top
        if (far <= least) { best = each; least = far; }
      }
      return best;
    }

    key(event) {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step && event.key !== "Enter") return;
      event.preventDefault();
      const ordered = [...this.places].sort((a, b) => a.x - b.x || a.y - b.y);
      const now = ordered.findIndex((each) => each.point === this.now?.point);
      this.point(ordered[Math.min(ordered.length - 1, Math.max(0, now + (step ?? 0)))], !step);
    }

    keep(each) {
      this.kept = each;
      showDetail(this.panel, each.point, each.series, true);
    }

    ring(each) {
      for (const [name, value] of Object.entries(each ? { cx: each.x, cy: each.y, r: each.series.size + 4 } : { r: 0 })) {
        this.here.setAttribute(name, value);
      }
    }

    // Shows a point; a kept one comes back when the pointer leaves.
    point(each, keep) {
      this.now = each;
      this.tip.textContent = "";
      if (each && keep && this.panel && each.point.length > 3) this.keep(each);
      const shown = each ?? (this.kept && this.places.find((other) => other.point === this.kept.point));
      this.ring(shown);
      if (this.panel && shown?.point.length > 3) showDetail(this.panel, shown.point, shown.series, this.kept?.point === shown.point);
      if (!each) return;
      const unit = (text) => text.match(/\((ms)\)/)?.[1] ?? "";
      const line = (label, value) => `${label.replace(/ \(.*/, "")} ${plain(value)} ${unit(label)}`.trim();
      this.tip.textContent = [each.point[2] || each.series.name, line(this.chart.x, each.point[0]), line(this.chart.y, each.point[1])].join("\n");
      const frame = this.svg.getBoundingClientRect(), box = this.box.getBoundingClientRect();
      const y = frame.top - box.top + each.y + 14, x = Math.min(each.x + 14, this.width - this.tip.offsetWidth);
      this.tip.style.left = `${Math.max(0, x)}px`;
      this.tip.style.top = `${y}px`;
    }
  }

  document.querySelectorAll("section[id]").forEach((section) => {
    html(document.getElementById("nav"), "a", { href: `#${section.id}` }, section.querySelector("h2").textContent);
  });
  document.querySelectorAll("[data-arch]").forEach((box) => drawArch(box, box.dataset.arch));
  document.querySelectorAll("[data-chart]").forEach((box) => new Chart(box));
})();
