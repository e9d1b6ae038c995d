"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const drawings = read("drawings");
  const pictures = read("pictures");
  const still = { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: false, showTips: false };

  // Colours are named in the data ("$ink"); the style sheet says what each name is in the theme of the moment.
  const coloured = (value, style) => {
    if (typeof value === "string") return value.startsWith("$") ? style.getPropertyValue("--" + value.slice(1)).trim() : value;
    if (Array.isArray(value)) return typeof value[0] === "number" && value.length > 8 ? value : value.map((one) => coloured(one, style));
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, coloured(one, style)]));
    return value;
  };

  const draw = (canvas) => {
    const style = getComputedStyle(document.documentElement);
    const { traces, layout } = coloured(drawings[canvas.dataset.figure], style);
    const ink = style.getPropertyValue("--ink").trim();
    const muted = style.getPropertyValue("--muted").trim();
    const whole = {
      margin: { l: 8, r: 8, t: 8, b: 8 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false,
      showlegend: false, legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { color: ink } }, bargap: 0.25,
      font: { family: style.getPropertyValue("--sans").trim(), size: 13, color: muted }, hoverlabel: { font: { size: 13 } },
      ...layout,
    };
    for (const side of ["xaxis", "yaxis"]) whole[side] = { fixedrange: true, ...whole[side] };
    Plotly.react(canvas, traces, whole, still);
    canvas.dataset.drawn = "yes";
  };

  const visible = (element) => !element.closest("[hidden]");
  const fill = (root) => {
    for (const image of root.querySelectorAll("img[data-picture]")) {
      if (visible(image) && image.getAttribute("src") === "data:,") image.src = pictures[image.dataset.picture] || "data:,";
    }
    for (const canvas of root.querySelectorAll("[data-figure]:not([data-drawn])")) if (visible(canvas)) draw(canvas);
  };
  const redraw = () => {
    for (const canvas of document.querySelectorAll("[data-drawn]")) if (visible(canvas)) draw(canvas); else delete canvas.dataset.drawn;
  };

  const buttons = [...document.querySelectorAll("button[data-panel]")];
  const choose = (button, { silent = false } = {}) => {
    for (const other of buttons) {
      const panel = document.getElementById("panel-" + other.dataset.panel);
      panel.hidden = other !== button;
      if (other === button) other.setAttribute("aria-current", "true"); else other.removeAttribute("aria-current");
    }
    const panel = document.getElementById("panel-" + button.dataset.panel);
    fill(panel);
    if (silent) return;
    document.getElementById("announced").textContent = "Showing " + panel.querySelector("h3").textContent.trim();
    history.replaceState(null, "", "#target-" + encodeURIComponent(panel.dataset.name));
  };
  const moves = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
  buttons.forEach((button, position) => {
    button.addEventListener("click", () => choose(button));
    button.addEventListener("keydown", (event) => {
      if (!(event.key in moves) || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      const next = buttons[Math.min(buttons.length - 1, Math.max(0, position + moves[event.key]))];
      next.focus();
      choose(next);
    });
  });

  for (const button of document.querySelectorAll("button[data-method]")) {
    button.addEventListener("click", () => {
      for (const other of button.parentElement.querySelectorAll("button")) {
        const lists = document.getElementById(other.dataset.method);
        lists.hidden = other !== button;
        other.setAttribute("aria-pressed", String(other === button));
      }
      fill(document.getElementById(button.dataset.method));
    });
  }

  for (const range of document.querySelectorAll("input[data-slide]")) {
    const steps = document.getElementById(range.dataset.slide);
    const slide = () => {
      for (const step of steps.children) step.hidden = step.dataset.step !== range.value;
      const shown = steps.querySelector(":scope > :not([hidden])");
      range.setAttribute("aria-valuetext", shown.querySelector("p").textContent.trim());
      fill(steps);
    };
    range.addEventListener("input", slide);
    slide();
  }

  const made = (tag, attributes, ...inside) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...inside);
    return element;
  };
  const image = (key, side, alt) => pictures[key] ? [made("img", { src: pictures[key], width: side, height: side, alt })] : [];

  // The map: a card follows the pointer; a click, or a choice in the list, shows what is nearest to a point.
  const explore = () => {
    const { points, features } = read("alike-points");
    const canvas = document.querySelector('[data-figure="alike-map"]');
    const { traces } = drawings["alike-map"];
    const [card, choice] = ["alike-card", "alike-choice"].map((id) => document.getElementById(id));
    const pairs = (listed) => made("dl", { class: "features" }, ...listed.map(([name, value]) => made("div", {}, made("dt", {}, name), made("dd", {}, value))));
    const example = ([index, label, said]) => {
      const shown = image("train-" + index, 64, `training image ${index}, label ${label}, similarity ${said}`);
      const says = made("span", { class: "says", ...(shown.length ? { "aria-hidden": "true" } : {}) }, made("b", {}, label), " " + said, made("small", {}, "#" + index));
      return made("li", {}, ...shown, says);
    };
    const list = (id, listed) => {
      const element = document.getElementById(id);
      element.replaceChildren(...listed.map(example));
      for (const one of [element, document.getElementById(id + "-head")]) one.hidden = !listed.length;
    };
    const place = (position) => traces.filter((one) => one.customdata.includes(position)).map((one) => [one.x, one.y].map((all) => all[one.customdata.indexOf(position)]))[0];
    const pick = (position, { silent = false } = {}) => {
      const point = points[position], key = "target-" + point.index, ring = traces[traces.length - 1];
      choice.value = String(position);
      document.getElementById("alike-title").textContent = point.title;
      document.getElementById("alike-told").replaceChildren(...image(key, 112, `target image ${point.index}`), pairs([...point.facts, ...(features[key] || [])]));
      list("alike-nearest", point.nearest);
      list("alike-unlike", point.unlike);
      [ring.x, ring.y] = [[], []];
      [ring.x, ring.y] = place(position).map((one) => [one]);
      draw(canvas);
      if (!silent) document.getElementById("alike-announced").textContent = "Showing " + point.title;
    };
    const show = ({ points: [under], event }) => {
      const point = points[under.customdata], ground = card.parentElement.getBoundingClientRect();
      card.replaceChildren(...image("target-" + point.index, 96, ""), made("b", {}, point.title), made("span", {}, point.facts.slice(2).map((pair) => pair.join(" ")).join(", ")));
      card.hidden = false;
      const [x, y, wide] = [event.clientX - ground.left, event.clientY - ground.top, card.offsetWidth + 16];
      card.style.left = Math.max(0, x + wide > ground.width ? x - wide : x + 16) + "px";
      card.style.top = Math.max(0, y - card.offsetHeight / 2) + "px";
    };
    canvas.on("plotly_hover", show);
    canvas.on("plotly_unhover", () => { card.hidden = true; });
    canvas.on("plotly_click", ({ points: [under] }) => pick(under.customdata));
    choice.addEventListener("change", () => pick(Number(choice.value)));
    pick(Number(choice.value), { silent: true });
  };

  const asked = () => {
    const name = location.hash.startsWith("#target-") ? decodeURIComponent(location.hash.slice(8)) : null;
    return buttons.find((button) => document.getElementById("panel-" + button.dataset.panel).dataset.name === name);
  };
  const follow = ({ scroll = true } = {}) => {
    const button = asked();
    if (!button) return;
    choose(button, { silent: true });
    if (scroll) document.getElementById("predictions").scrollIntoView();
  };
  fill(document);
  if (document.getElementById("alike-points")) explore();
  follow();
  window.addEventListener("hashchange", () => follow());
  for (const query of ["(prefers-color-scheme: dark)", "print"]) window.matchMedia(query).addEventListener("change", redraw);
})();
