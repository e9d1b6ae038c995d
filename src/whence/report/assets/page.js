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
  follow();
  window.addEventListener("hashchange", () => follow());
  for (const query of ["(prefers-color-scheme: dark)", "print"]) window.matchMedia(query).addEventListener("change", redraw);
})();
