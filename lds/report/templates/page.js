"use strict";
// Hovering, zooming, and the neighbourhood of any node. The page says everything without it, too.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const make = (name, attributes, parent, text) => {
    const element = name.startsWith("html:") ? document.createElement(name.slice(5))
      : document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    if (parent) parent.append(element);
    return element;
  };

  const tip = make("html:div", { class: "tip", role: "status", hidden: "" }, document.body);
  const say = (text, x, y) => {
    tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = Math.min(Math.max(x - box.width / 2, 4), document.documentElement.clientWidth - box.width - 4);
    const top = y - box.height - 14 < 4 ? y + 18 : y - box.height - 14;
    tip.style.transform = `translate(${left}px, ${top}px)`;
  };
  const hush = () => { tip.hidden = true; };
  addEventListener("scroll", hush, { passive: true });
  addEventListener("keydown", (event) => { if (event.key === "Escape") hush(); });

  // The matrix from drawing to window is asked for each time: the page scrolls, and drawings are zoomed.
  const onPage = (svg, x, y) => new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());

  const hover = (svg, points) => {
    const ring = make("circle", { r: 5, class: "ring", visibility: "hidden" }, svg);
    const leave = () => { ring.setAttribute("visibility", "hidden"); hush(); };
    svg.addEventListener("pointermove", (event) => {
      let nearest = null, least = 28 * 28;
      for (const [x, y, text] of points) {
        const at = onPage(svg, x, y);
        const away = (at.x - event.clientX) ** 2 + (at.y - event.clientY) ** 2;
        if (away < least) { least = away; nearest = [x, y, text, at]; }
      }
      if (!nearest || event.buttons) { leave(); return; }
      ring.setAttribute("cx", nearest[0]);
      ring.setAttribute("cy", nearest[1]);
      ring.setAttribute("visibility", "visible");
      say(nearest[2], nearest[3].x, nearest[3].y);
    });
    svg.addEventListener("pointerleave", leave);
  };

  const zoom = (figure, svg) => {
    const whole = svg.getAttribute("viewBox").split(/[\s,]+/).map(Number);
    let view = whole.slice();
    const bar = make("html:div", { class: "zoom" });
    const show = () => {
      view[0] = Math.min(Math.max(view[0], whole[0]), whole[0] + whole[2] - view[2]);
      view[1] = Math.min(Math.max(view[1], whole[1]), whole[1] + whole[3] - view[3]);
      svg.setAttribute("viewBox", view.join(" "));
      svg.classList.toggle("zoomed", view[2] < whole[2]);
      hush();
    };
    const scale = (factor, x, y) => {
      const width = Math.min(Math.max(view[2] * factor, whole[2] / 16), whole[2]);
      const by = width / view[2];
      view = [x - (x - view[0]) * by, y - (y - view[1]) * by, width, view[3] * by];
      show();
    };
    const middle = () => [view[0] + view[2] / 2, view[1] + view[3] / 2];
    for (const [text, label, act] of [
      ["+", "Zoom in", () => scale(0.625, ...middle())],
      ["−", "Zoom out", () => scale(1.6, ...middle())],
      ["↺", "Whole figure", () => { view = whole.slice(); show(); }],
    ]) make("html:button", { type: "button", "aria-label": label, title: label }, bar, text).onclick = act;
    figure.querySelector("figcaption").append(bar);
    const inside = (event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    svg.addEventListener("dblclick", (event) => { const at = inside(event); scale(0.5, at.x, at.y); });
    svg.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;  // Without a key, the wheel scrolls the page.
      event.preventDefault();
      const at = inside(event);
      scale(event.deltaY > 0 ? 1.25 : 0.8, at.x, at.y);
    }, { passive: false });
    let held = null;
    svg.addEventListener("pointerdown", (event) => {
      if (view[2] < whole[2]) { held = inside(event); svg.setPointerCapture(event.pointerId); }
    });
    svg.addEventListener("pointermove", (event) => {
      if (!held || !event.buttons) return;
      const at = inside(event);
      view[0] += held.x - at.x;
      view[1] += held.y - at.y;
      show();
    });
    svg.addEventListener("pointerup", () => { held = null; });
  };

  for (const figure of document.querySelectorAll("figure[data-points]")) {
    const svg = figure.querySelector("svg");
    zoom(figure, svg);
    const points = JSON.parse(figure.dataset.points);
    if (points.length) hover(svg, points);
  }

  const explore = (place) => {
    const data = JSON.parse(place.querySelector("script").textContent);
    const starts = [0];
    for (const degree of data.degree) starts.push(starts[starts.length - 1] + Math.min(degree, data.most));
    const called = (node) => (data.names ? data.names[node] : String(node));
    const short = (text) => (text.length <= 12 ? text : `${text.slice(0, 11)}…`);
    const labelled = (node) => (data.label && data.label[node] >= 0 ? data.classes[data.label[node]] : "none");
    const colour = (node) => (data.label ? `var(--series-${1 + ((data.label[node] + 7) % 7)})` : "var(--series-1)");
    const about = (node) => `node ${called(node)}${data.label ? `, class ${labelled(node)}` : ""}`;

    const form = make("html:form", { class: "choose" }, place);
    const id = `${place.id}-node`;
    make("html:label", { for: id }, form, "Node, by number or name:");
    const box = make("html:input", { id, type: "text", list: `${id}s`, autocomplete: "off", size: 16 }, form);
    make("html:button", { type: "submit" }, form, "Show");
    const list = make("html:datalist", { id: `${id}s` }, form);
    // Listed on the first touch: thousands of them would slow the page down.
    box.addEventListener("focus", () => {
      for (let node = 0; node < Math.min(data.count, 3000); node++) make("html:option", { value: called(node) }, list);
    }, { once: true });
    const note = make("html:p", { class: "note", "aria-live": "polite" }, place);
    const body = make("html:div", { class: "explored" }, place);

    const show = (node) => {
      box.value = called(node);
      body.replaceChildren();
      const edges = [];
      for (let at = starts[node]; at < starts[node + 1]; at++) {
        edges.push([data.other[at], data.probability[at] / 1000, data.initial ? data.initial[at] : null]);
      }
      const split = data.split ? data.splits[data.split[node]] : "";
      note.textContent = `${about(node).replace("node", "Node")}${split ? `, ${split} split` : ""}: `
        + `${edges.length} of ${data.degree[node]} edges of probability above 0.01, the strongest first.`;
      if (!edges.length) return;
      const svg = make("svg", { viewBox: "-170 -150 340 300", role: "img",
        "aria-label": `${about(node)} and its strongest edges` }, body);
      const points = [[0, 0, about(node)]];
      const ring = edges.slice().sort((a, b) => (data.label ? data.label[a[0]] - data.label[b[0]] : 0) || b[1] - a[1]);
      const places = ring.map((edge, at) => {
        const angle = (2 * Math.PI * at) / ring.length - Math.PI / 2;
        return [...edge, 112 * Math.cos(angle), 112 * Math.sin(angle)];
      });
      for (const [, probability, initial, x, y] of places) {
        const width = 0.8 + 4 * probability;
        make("line", { x1: 0, y1: 0, x2: x, y2: y, class: "edge", "stroke-width": width,
          ...(initial === 0 ? { "stroke-dasharray": `${3.7 * width} ${1.6 * width}` } : {}) }, svg);
      }
      for (const [other, probability, initial, x, y] of places) {
        const dot = make("circle", { cx: x, cy: y, r: 8, style: `fill: ${colour(other)}`, class: "other" }, svg);
        dot.addEventListener("click", () => show(other));
        make("text", { x: 1.22 * x, y: 1.16 * y + 3, "text-anchor": "middle", "font-size": 10 }, svg,
          short(called(other)));
        const origin = initial === null ? "" : initial ? ", initial" : ", new";
        points.push([x, y, `${about(other)}, probability ${probability.toFixed(3)}${origin}`]);
      }
      make("circle", { r: 12, class: "centre", style: `fill: ${colour(node)}` }, svg);
      hover(svg, points);
      const scroll = make("html:div", { class: "scroll", tabindex: 0 }, body);
      const table = make("html:table", {}, scroll);
      const head = make("html:tr", {}, make("html:thead", {}, table));
      for (const text of ["neighbour", "probability", "edge", "class"]) {
        make("html:th", { scope: "col" }, head, text);
      }
      const rows = make("html:tbody", {}, table);
      for (const [other, probability, initial] of edges) {
        const row = make("html:tr", {}, rows);
        make("html:button", { type: "button" }, make("html:th", { scope: "row" }, row), called(other))
          .onclick = () => show(other);
        const origin = initial === null ? "–" : initial ? "initial" : "new";
        for (const text of [probability.toFixed(3), origin, data.label ? labelled(other) : "–"]) {
          make("html:td", {}, row, text);
        }
      }
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const asked = box.value.trim();
      let node = data.names ? data.names.indexOf(asked) : -1;
      if (node < 0 && /^\d+$/.test(asked) && Number(asked) < data.count) node = Number(asked);
      if (node < 0) {
        note.textContent = `There is no node ${asked}: name one of 0 to ${data.count - 1}`
          + `${data.names ? ", or a name of the data" : ""}.`;
        return;
      }
      show(node);
    });
    show(Number(place.dataset.start));
    place.hidden = false;
  };
  document.querySelectorAll(".explorer").forEach(explore);
})();
