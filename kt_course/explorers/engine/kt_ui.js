/**
 * Small helpers that all views share: elements, words for numbers, colours, keyboard movement,
 * the theme.
 */

/** The views by name: each module of views adds its own. A view takes a page, see `mount`. */
export const views = {};

/**
 * An element. Attributes that are functions become event listeners ("click", "input" ...).
 *
 * @param {string} tag
 * @param {Object} attributes
 * @param {...(Node|string)} children
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** What to try first: the sentence that `attach` got as `hint`, else the view's own. */
export const tryFirst = (page, sentence) =>
  el("p", { class: "kt-try" }, el("strong", {}, "Try first: "), page.start.hint ?? sentence);

/** The name in "Where was NAME born?"; any other text as it is. */
export const nameIn = (question) => question.replace(/^Where was (.*) born\?$/, "$1");

/** "97 %", "3.2 %", "below 0.1 %". */
export function percent(share) {
  if (share < 0.0005) return "below 0.1 %";
  return share < 0.0995 ? `${(100 * share).toFixed(1)} %` : `${Math.round(100 * share)} %`;
}

/** A character that can be seen. */
export const visible = (character) => ({ " ": "␣", "\n": "↵", "\t": "⇥" })[character] ?? character;

/** A character by its name, for readouts: ‘a’, space. */
export const spoken = (character) =>
  ({ " ": "a space", "\n": "a line break", "⁇": "the mask ⁇" })[character] ?? `‘${character}’`;

/** Indices of the k largest numbers, largest first. */
export function largest(numbers, k) {
  return Array.from(numbers, (value, i) => [value, i])
    .sort((a, b) => b[0] - a[0])
    .slice(0, k)
    .map(([, i]) => i);
}

// ---------------------------------------------------------------- colours

const SCALES = {
  // from share 0 to share 1, linear in between
  light: [
    [255, 255, 255],
    [86, 160, 211],
    [0, 56, 110],
  ],
  dark: [
    [27, 31, 36],
    [40, 110, 165],
    [190, 228, 255],
  ],
};
export const FORBIDDEN = { light: [232, 232, 232], dark: [52, 56, 62] };

/**
 * @param {number} share 0 ... 1
 * @param {"light"|"dark"} theme
 * @returns {number[]} red, green, blue
 */
export function colourOf(share, theme) {
  const stops = SCALES[theme],
    at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const i = Math.min(Math.floor(at), stops.length - 2);
  return stops[i].map((value, c) => Math.round(value + (at - i) * (stops[i + 1][c] - value)));
}

/** Relative luminance of a colour (WCAG 2.1). */
function luminance(colour) {
  const [r, g, b] = colour.map((value) =>
    value <= 10 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4,
  );
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/**
 * Background of a cell and the text colour, black or white, that has the higher contrast with
 * it, as CSS.
 */
export function cellStyle(share, theme) {
  const colour = colourOf(share, theme);
  return `background:rgb(${colour});color:${luminance(colour) > 0.179 ? "#000" : "#fff"}`;
}

/**
 * A colour bar with its ends in words.
 * @returns {HTMLElement} with a method `setMost(number)` for its upper end
 */
export function colourBar(label, most = "1") {
  const end = el("span", {}, most);
  const bar = el(
    "div",
    { class: "kt-bar" },
    el("span", {}, "0"),
    el("span", { class: "kt-bar-colours" }),
    end,
    el("span", {}, label),
  );
  bar.setMost = (number) => {
    end.textContent = number;
  };
  return bar;
}

/**
 * Call `changed("light" | "dark")` now and whenever the page behind `root` becomes light or
 * dark.
 */
export function watchTheme(root, changed) {
  let now = null;
  const canvas = root.parentElement.appendChild(
    el("span", { hidden: true, style: "background: Canvas" }),
  ); // the page's own colour
  const look = () => {
    let behind = [];
    for (
      let element = root.parentElement;
      element && !(behind[3] > 0.5);
      element = element.parentElement
    ) {
      const [r = 0, g = 0, b = 0, alpha = 1] =
        getComputedStyle(element)
          .backgroundColor.match(/[\d.]+/g)
          ?.map(Number) ?? [];
      behind = [r, g, b, alpha];
    }
    if (!(behind[3] > 0.5))
      behind = getComputedStyle(canvas)
        .backgroundColor.match(/[\d.]+/g)
        .map(Number);
    const theme = luminance(behind.slice(0, 3)) > 0.25 ? "light" : "dark";
    if (theme === now) return;
    now = theme;
    root.dataset.theme = theme;
    changed(theme);
  };
  look();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", look);
  const observer = new MutationObserver(() => requestAnimationFrame(look));
  for (const element of [document.documentElement, document.body]) {
    observer.observe(element, {
      attributes: true,
      attributeFilter: [
        "class",
        "style",
        "data-theme",
        "data-jp-theme-light",
        "data-jp-theme-name",
      ],
    });
  }
}

// ---------------------------------------------------------------- keyboard

/**
 * Arrow keys, Home and End move the focus within rows of elements; Tab enters and leaves the whole.
 *
 * @param {HTMLElement} container
 * @param {() => HTMLElement[][]} rows the elements by row, as they are now
 * @returns {(element: HTMLElement) => void} makes an element the one that Tab reaches
 */
export function arrowKeys(container, rows) {
  const choose = (element) => {
    for (const each of rows().flat()) each.tabIndex = each === element ? 0 : -1;
  };
  /** The first other element above or below; an element may span several rows. */
  const vertical = (all, y, x, step, from) => {
    for (y += step; all[y]; y += step) {
      const element = all[y][Math.min(x, all[y].length - 1)];
      if (element !== from) return element;
    }
  };
  container.addEventListener("keydown", (event) => {
    const all = rows(),
      y = all.findIndex((row) => row.includes(event.target));
    if (y < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
    const row = all[y],
      x = row.indexOf(event.target);
    const moves = {
      ArrowLeft: () => row[x - 1],
      ArrowRight: () => row[x + 1],
      ArrowUp: () => vertical(all, y, x, -1, event.target),
      ArrowDown: () => vertical(all, y, x, 1, event.target),
      Home: () => row[0],
      End: () => row.at(-1),
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const next = moves[event.key]();
    if (!next) return;
    choose(next);
    next.focus();
  });
  container.addEventListener("focusin", (event) => {
    if (rows().flat().includes(event.target)) choose(event.target);
  });
  return choose;
}

/** Run `work` once before the next paint, however often it is asked for. */
export function onceAFrame(work) {
  let isWaiting = false;
  return () => {
    if (isWaiting) return;
    isWaiting = true;
    requestAnimationFrame(() => {
      isWaiting = false;
      work();
    });
  };
}

/** Work through an iterator in slices of some milliseconds; `stop()` of what it returns ends it. */
export function inSlices(iterator, each, done = () => {}, milliseconds = 12) {
  let isStopped = false;
  const slice = () => {
    const end = performance.now() + milliseconds;
    while (!isStopped && performance.now() < end) {
      const { value, done: isDone } = iterator.next();
      if (isDone) return done();
      each(value);
    }
    if (!isStopped) setTimeout(slice);
  };
  setTimeout(slice);
  return {
    stop: () => {
      isStopped = true;
    },
  };
}

/**
 * A labelled line of text with buttons for examples below it; `changed` is called with each new
 * text.
 */
export function questionField({ label, value, examples, changed }) {
  const input = el("input", {
    type: "text",
    value,
    spellcheck: "false",
    autocomplete: "off",
    autocapitalize: "off",
    input: () => changed(input.value),
  });
  const buttons = examples.map(({ question }) =>
    el(
      "button",
      {
        type: "button",
        click: () => {
          input.value = question;
          changed(question);
        },
      },
      nameIn(question),
    ),
  );
  const chips =
    examples.length > 1
      ? [
          el(
            "div",
            { class: "kt-chips", role: "group", "aria-label": "Examples" },
            "Examples: ",
            ...buttons,
          ),
        ]
      : [];
  return {
    input,
    element: el(
      "div",
      {},
      el("label", { class: "kt-field" }, el("span", {}, label), input),
      ...chips,
    ),
  };
}

/** A labelled list to choose from; `options` are pairs of a value and its text. */
export function choiceField({ label, options, value, changed }) {
  const select = el(
    "select",
    { change: () => changed(select.value) },
    ...options.map(([key, text]) => el("option", { value: key, selected: key === value }, text)),
  );
  return {
    select,
    element: el("label", { class: "kt-field kt-choice" }, el("span", {}, label), select),
  };
}

/** A labelled slider over whole numbers. @returns {{element: HTMLElement, set: Function}} */
export function sliderField({ label, value, min = 0, max, changed, say = String }) {
  const output = el("output", {}, say(value));
  const input = el("input", { type: "range", min, max, value, input: () => show(true) });
  const show = (isMoved) => {
    output.textContent = say(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
    if (isMoved) changed(Number(input.value));
  };
  show(false);
  return {
    element: el("label", { class: "kt-field kt-slider" }, el("span", {}, label), input, output),
    /** Move it from outside, and change how far it reaches; `changed` is not called. */
    set(value, max = input.max) {
      input.max = max;
      input.value = value;
      show(false);
    },
  };
}

// ---------------------------------------------------------------- drawings

/** Names with shares as bars, `{name, share, isTrue}` each. */
export const bars = (rows) =>
  rows.map(({ name, share, isTrue }) =>
    el(
      "li",
      { class: { true: "kt-true", false: "kt-wrong" }[isTrue] },
      el("span", { class: "kt-name" }, name),
      el("span", { class: "kt-share" }, percent(share)),
      el(
        "span",
        { class: "kt-track" },
        el("span", { style: `width:${(100 * share).toFixed(1)}%` }),
      ),
    ),
  );

/** Text in pieces of several kinds, [text, kind] each; kt_page.css gives each kind its look. */
export const textOfKinds = (pieces, attributes = {}) =>
  el(
    "p",
    { class: "kt-runs", ...attributes },
    ...pieces
      .filter(([text]) => text)
      .map(([text, kind]) => el("span", { class: kind ? `kt-kind kt-${kind}` : "" }, text)),
  );

/** Words in a row, each coloured by its weight. */
export const weightedWords = (words, weights, theme) =>
  el(
    "p",
    { class: "kt-runs" },
    ...words.flatMap((word, i) => [
      el("span", { class: "kt-kind", style: cellStyle(weights[i], theme) }, word),
      " ",
    ]),
  );

/** A table that scrolls: a label, the heads of its columns, its body. */
export const scrollTable = (label, head, body) =>
  el(
    "div",
    { class: "kt-scroll", tabindex: "0", role: "group", "aria-label": label },
    el(
      "table",
      { class: "kt-table" },
      el("thead", {}, el("tr", {}, ...head.map((text) => el("th", { scope: "col" }, text)))),
      body,
    ),
  );

/** What the kinds of `textOfKinds` mean: {kind: meaning}. */
export const legend = (kinds) =>
  el(
    "p",
    { class: "kt-note kt-legend" },
    ...Object.entries(kinds).map(([kind, meaning]) =>
      el("span", { class: `kt-kind kt-${kind}` }, meaning),
    ),
  );

/** An SVG element. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/**
 * A chart of curves over one x axis.
 *
 * @param {{label: string, xLabel: string, curves: Object[]}} given curves: {name, points: [x, y][],
 *     dash}; `label` says what the picture shows
 * @returns {{element: SVGElement, mark: (x: number) => void}} `mark` moves the upright line
 */
export function lineChart({ label, xLabel, curves, yMax = -Infinity }) {
  const [W, H, left, right, top, bottom] = [360, 150, 34, 8, 20, 30];
  const points = curves.flatMap((curve) => curve.points);
  const extent = (i, most) => [
    Math.min(0, ...points.map((p) => p[i])),
    Math.max(most, ...points.map((p) => p[i])),
  ];
  const [[x0, x1], [y0, y1]] = [extent(0, -Infinity), extent(1, yMax)];
  const x = (value) => left + ((value - x0) / (x1 - x0)) * (W - left - right);
  const y = (value) => H - bottom - ((value - y0) / (y1 - y0)) * (H - top - bottom);
  const text = (content, at) => svg("text", at, content);
  const marker = svg("line", { class: "kt-marker", y1: top, y2: H - bottom });
  const element = svg(
    "svg",
    { class: "kt-chart", viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label },
    svg("path", { class: "kt-axes", d: `M${left} ${top}V${y(Math.max(y0, 0))}H${W - right}` }),
    ...[y0, y1].map((value) =>
      text(String(Number(value.toFixed(1))), {
        x: left - 5,
        y: y(value) + 4,
        "text-anchor": "end",
      }),
    ),
    text(String(x0), { x: left, y: H - bottom + 13 }),
    text(String(x1), { x: W - right, y: H - bottom + 13, "text-anchor": "end" }),
    text(xLabel, { x: (left + W - right) / 2, y: H - 4, "text-anchor": "middle" }),
    ...curves.map(({ points, dash = "" }) =>
      svg("polyline", {
        class: "kt-curve",
        "stroke-dasharray": dash,
        points: points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" "),
      }),
    ),
    ...curves.flatMap(({ name, dash = "" }, i) => [
      svg("line", {
        class: "kt-curve",
        "stroke-dasharray": dash,
        x1: left + 150 * i,
        x2: left + 150 * i + 22,
        y1: 9,
        y2: 9,
      }),
      text(name, { x: left + 150 * i + 27, y: 13 }),
    ]),
    marker,
  );
  return {
    element,
    mark(value) {
      marker.setAttribute("x1", x(value));
      marker.setAttribute("x2", x(value));
    },
  };
}
