import {
  arrowKeys,
  choiceField,
  colourBar,
  colourOf,
  el,
  largest,
  onceAFrame,
  percent,
  tryFirst,
  views,
} from "./kt_ui.js";

const INK = { light: [17, 17, 17], dark: [245, 245, 245] };

/** Bytes from base64. */
const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

/**
 * Attention maps of a Vision Transformer that were computed before: choose an image, a head and a
 * patch, and see which patches that one attends to.
 *
 * Token 0 is the class token, tokens 1 ... N are the patches, row by row.
 *
 * @param {Page} page `data` holds side, grid, layers, heads, most (the weight with the darkest
 *     colour), images [{name, note}], and in base64 bytes: pixels [image][row][column], weights
 *     [image][layer][head][query][key] and rollout [image][query][key]; 255 is the weight 1
 * @returns {HTMLElement}
 */
function patchesView(page) {
  const given = page.data;
  const { side, grid, layers, heads } = given;
  const N = grid * grid,
    T = N + 1,
    p = side / grid;
  const pixels = bytesOf(given.pixels),
    weights = bytesOf(given.weights),
    rollout = bytesOf(given.rollout);
  const state = { image: 0, layer: layers - 1, head: "mean", query: 0 };

  /** Weights of a query over all tokens; the head may be a number, "mean" or "rollout". */
  function row(layer, head, image = state.image, query = state.query) {
    if (head === "rollout") {
      const start = (image * T + query) * T;
      return Array.from(rollout.subarray(start, start + T), (byte) => byte / 255);
    }
    const chosen = head === "mean" ? Array.from({ length: heads }, (_, h) => h) : [head];
    return Array.from({ length: T }, (_, key) => {
      const share = (h) =>
        weights[(((image * layers + layer) * heads + h) * T + query) * T + key] / 255;
      return chosen.reduce((sum, h) => sum + share(h), 0) / chosen.length;
    });
  }

  /** Draw patch n of the chosen image on the colour of its weight. */
  function paint(canvas, n, share) {
    const context = canvas.getContext("2d"),
      ground = colourOf(share, page.theme),
      data = context.createImageData(p, p);
    const isDark = ground[0] + ground[1] + ground[2] < 380,
      ink = INK[isDark ? "dark" : "light"];
    const corner = state.image * side * side + Math.floor(n / grid) * p * side + (n % grid) * p;
    for (let y = 0; y < p; y++)
      for (let x = 0; x < p; x++) {
        const share = pixels[corner + y * side + x] / 255;
        for (let c = 0; c < 3; c++)
          data.data[4 * (y * p + x) + c] = ground[c] + share * (ink[c] - ground[c]);
        data.data[4 * (y * p + x) + 3] = 255;
      }
    context.putImageData(data, 0, 0);
  }

  const name = (token) =>
    token === 0
      ? "class token"
      : `patch (${Math.floor((token - 1) / grid)}, ${(token - 1) % grid})`;
  const status = el("p", { class: "kt-status kt-answer", role: "status" });
  const note = el("p", { class: "kt-readout" });
  const title = el("p", { class: "kt-title" });

  // one button per token: the class token alone in the first row, then the rows of patches
  const buttons = Array.from({ length: T }, (_, token) =>
    el(
      "button",
      {
        type: "button",
        class: "kt-patch",
        tabindex: "-1",
        click: () => set({ query: token }),
        focus: () => state.query !== token && set({ query: token }),
      },
      token ? el("canvas", { width: p, height: p }) : el("span", { class: "kt-class" }, "class token"),
      " ",
      el("span", { class: "kt-share" }),
    ),
  );
  const lines = [[buttons[0]]];
  for (let r = 0; r < grid; r++) lines.push(buttons.slice(1 + r * grid, 1 + (r + 1) * grid));
  const board = el(
    "div",
    { role: "group", "aria-label": "The image in patches", class: "kt-patches" },
    ...lines.map((line) => el("div", { class: "kt-patch-row" }, ...line)),
  );
  const choose = arrowKeys(board, () => lines);
  choose(buttons[0]);

  const tiles = [];
  const table = el("div", { class: "kt-heads", style: `--kt-heads:${heads}` }, el("span"));
  for (let h = 0; h < heads; h++) table.append(el("span", { class: "kt-axis" }, `head ${h}`));
  for (let layer = 0; layer < layers; layer++) {
    table.append(el("span", { class: "kt-axis" }, `layer ${layer}`));
    for (let head = 0; head < heads; head++) {
      const canvas = el("canvas", { width: grid, height: grid });
      const button = el(
        "button",
        {
          type: "button",
          class: "kt-tile",
          "aria-label": `layer ${layer}, head ${head}`,
          click: () => {
            show.select.value = "head";
            set({ layer, head });
          },
        },
        canvas,
      );
      tiles.push({ layer, head, canvas, button });
      table.append(button);
    }
  }
  const image = choiceField({
    label: "Image",
    options: given.images.map((one, i) => [String(i), one.name]),
    value: "0",
    changed: (i) => set({ image: Number(i) }),
  });
  const show = choiceField({
    label: "Show",
    options: [
      ...Array.from({ length: layers }, (_, i) => [`mean ${i}`, `mean of the heads, layer ${i}`]),
      ["rollout", "rollout through all layers"],
      ["head", "one head (choose it on the right)"],
    ],
    value: `mean ${layers - 1}`,
    changed: (value) => {
      const [kind, layer] = value.split(" ");
      if (kind === "mean") set({ head: "mean", layer: Number(layer) });
      else set({ head: kind === "head" ? 0 : "rollout" });
    },
  });
  const bar = colourBar("attention weight of a patch");
  bar.setMost(percent(given.most));

  const redraw = onceAFrame(() => {
    const shares = row(state.layer, state.head);
    const scaled = (share) => share / given.most;
    buttons.forEach((button, token) => {
      if (token) paint(button.querySelector("canvas"), token - 1, scaled(shares[token]));
      button.querySelector(".kt-share").textContent = percent(shares[token]);
      const isQuery = token === state.query;
      button.setAttribute("aria-pressed", isQuery);
      const words = `${name(token)} ${percent(shares[token])}`;
      button.setAttribute("aria-label", isQuery ? `${words}, the query` : words);
    });
    for (const { layer, head, canvas, button } of tiles) {
      const context = canvas.getContext("2d"),
        each = row(layer, head);
      for (let n = 0; n < N; n++) {
        context.fillStyle = `rgb(${colourOf(scaled(each[n + 1]), page.theme)})`;
        context.fillRect(n % grid, Math.floor(n / grid), 1, 1);
      }
      button.setAttribute("aria-pressed", state.head === head && state.layer === layer);
    }
    const what = {
      mean: `mean of the heads of layer ${state.layer}`,
      rollout: "rollout through all layers",
    };
    title.textContent = what[state.head] ?? `layer ${state.layer}, head ${state.head}`;
    const best = largest(shares, 3).map((token) => `${name(token)} (${percent(shares[token])})`);
    const query = name(state.query);
    status.textContent = `${query[0].toUpperCase()}${query.slice(1)} attends most to: ${best.join(", ")}.`;
    note.textContent = given.images[state.image].note;
  });
  function set(changes) {
    Object.assign(state, changes);
    redraw();
  }

  page.onTheme = redraw;
  page.expose(
    "patchWeights(image, layer, head, query)",
    'the weights of a token over all tokens; head may be "mean" or "rollout"',
    (image, layer, head, query) => row(layer, head, image, query),
    "patchWeights(0, 1, 0, 0)",
  );
  redraw();
  return el(
    "div",
    {},
    tryFirst(
      page,
      "click the patch with the odd one out, then another patch. Which heads change? " +
        "With the keyboard: Tab to the image, then the arrow keys.",
    ),
    image.element,
    note,
    show.element,
    el(
      "div",
      { class: "kt-two" },
      el("div", {}, title, board, bar),
      el("div", {}, el("p", { class: "kt-title" }, "All heads, for the same query"), table),
    ),
    status,
  );
}

views.patches = patchesView;
