import { attentionAxes, probabilityOf } from "./kt_analysis.js";
import {
  choiceField,
  colourBar,
  colourOf,
  FORBIDDEN,
  arrowKeys,
  cellStyle,
  el,
  inSlices,
  largest,
  onceAFrame,
  percent,
  questionField,
  spoken,
  tryFirst,
  views,
  visible,
} from "./kt_ui.js";

/**
 * Attention over any text: all heads at a glance, one head as a heat map and over the text, heads
 * to knock out.
 *
 * @param {Page} page models, examples and knock-outs of this page
 * @returns {HTMLElement}
 */
function attentionView(page) {
  const state = {
    name: page.names[0],
    text: page.examples[0]?.question ?? "Where was Ada Lovelace born?",
    layer: 0,
    head: 0,
    query: 0,
    key: null,
    reading: null,
    effects: null,
    ...page.start,
  };
  let intact = { key: null },
    measuring = null,
    heads = [],
    blocks = [];

  // ------------------------------------------------------------ elements

  const status = el("p", { class: "kt-status kt-answer", role: "status" });
  const readout = el("p", { class: "kt-readout" });
  const strip = el("div", {
    class: "kt-strip",
    role: "listbox",
    "aria-label": "The text: choose the character that attends",
    "aria-orientation": "horizontal",
  });
  const map = el("canvas", { class: "kt-map", role: "img" });
  const mapTitle = el("p", { class: "kt-title" }),
    mapNote = el("p", { class: "kt-note" });
  const bar = colourBar("attention weight (linear scale)");
  const tiles = el("div", {
    class: "kt-heads",
    role: "group",
    "aria-label": "All heads. Arrow keys move.",
  });
  const restore = el(
    "button",
    { type: "button", click: () => page.knockOut(state.name, []) },
    "Restore all heads",
  );
  const measure = el(
    "button",
    { type: "button", click: () => measureHeads() },
    "Try each head in turn",
  );
  const field = questionField({
    label: "Text",
    value: state.text,
    examples: page.examples,
    changed: (text) => {
      state.text = text;
      later();
    },
  });
  const choice = choiceField({
    label: "Model",
    options: page.names.map((name) => [name, page.label(name)]),
    value: state.name,
    changed: (name) => {
      state.name = name;
      buildTiles();
      update(true);
    },
  });

  const isEncoder = () => page.model(state.name).config.causal === false;
  const prompt = () =>
    state.text.includes("⁇") || isEncoder() ? state.text : `${state.text}⁇`;
  const keyOfText = () => `${state.name}\n${prompt()}`;
  const recorded = (layer = state.layer) => state.reading.attention[layer];

  // ------------------------------------------------------------ reading the text

  /** Run the model on the text, then draw everything. */
  function update(chooseHead = false) {
    measuring?.stop();
    state.effects = null;
    try {
      const model = page.model(state.name),
        knockedOut = page.knockedOut(state.name);
      const reading = model.complete(prompt(), { knockedOut, record: true });
      const key = keyOfText();
      if (!knockedOut.length)
        intact = { key, answer: reading.answer, probability: reading.probability };
      else if (intact.key !== key) intact = { key, ...model.complete(prompt()) };
      const isLonger = reading.ids.length !== state.reading?.ids.length;
      Object.assign(state, { reading, model, characters: model.vocabulary });
      if (chooseHead) chooseTellingHead();
      if (isLonger || chooseHead)
        Object.assign(state, { query: tellingQuery(), key: null });
      field.element.parentElement?.classList.remove("kt-stale");
    } catch (error) {
      status.textContent = error.message;
      field.element.parentElement?.classList.add("kt-stale");
      return;
    }
    writeAnswer();
    drawTiles();
    drawHead();
  }
  const later = onceAFrame(update);

  /** The row to open on: where the answer begins. */
  function tellingQuery() {
    const first = prompt().indexOf("⁇"),
      last = rowsOfHead().length - 1;
    return isEncoder() && first >= 0 ? first : last;
  }

  /**
   * Open on the head whose last character attends most to the name: the one that has something
   * to show.
   */
  function chooseTellingHead() {
    const text = prompt(),
      to = Math.max(text.lastIndexOf(" born"), text.indexOf("."));
    const from = text.startsWith("Where was ") ? "Where was ".length : 0,
      row = isEncoder() ? tellingQuery() : -1; // the last one of a causal model
    let best = -1;
    state.reading.attention.forEach(({ weights, nHead, nQuery, nKey }, layer) => {
      const { keys } = attentionAxes(state.model, layer, state.reading.ids.length);
      for (let head = 0; head < nHead; head++) {
        let sum = 0;
        for (let k = 0; k < nKey; k++) {
          if (keys[k].from >= from && keys[k].to <= to)
            sum += weights[(head * nQuery + (row < 0 ? nQuery - 1 : row)) * nKey + k];
        }
        if (sum > best) [best, state.layer, state.head] = [sum, layer, head];
      }
    });
  }

  function writeAnswer() {
    const { answer, probability } = state.reading,
      out = page.knockedOut(state.name);
    const say = (one) => `${one.answer || "an empty answer"} (${percent(one.probability)})`;
    const answers = isEncoder() ? "fills the masks with" : "answers";
    if (isEncoder() && !prompt().includes("⁇"))
      return status.replaceChildren("Type ⁇ for each character that the model shall fill in.");
    if (!out.length)
      return status.replaceChildren(
        `The model ${answers}: `,
        el("strong", {}, say({ answer, probability })),
      );
    const names = out
      .map(([layer, head]) =>
        head === undefined ? `block ${layer}` : `head ${head} of layer ${layer}`,
      )
      .join(", ");
    status.replaceChildren(
      `Without ${names} the model ${answers}: `,
      el("strong", {}, say({ answer, probability })),
      `. With all heads: ${say(intact)}.`,
    );
    restore.disabled = false;
  }

  // ------------------------------------------------------------ all heads at a glance

  const isOut = (layer, head) =>
    page.knockedOut(state.name).some(([l, h]) => l === layer && (h === undefined || h === head));
  const toggle = (layer, head) => {
    const out = page.knockedOut(state.name),
      rest = out.filter(([l, h]) => l !== layer || h !== head);
    page.knockOut(state.name, rest.length < out.length ? rest : [...out, [layer, head]]);
  };

  const chooseTile = arrowKeys(tiles, () =>
    heads.flatMap((row, layer) => [
      [blocks[layer], ...row.map(({ show }) => show)],
      [blocks[layer], ...row.map(({ out }) => out)],
    ]),
  );

  function buildTiles() {
    const { n_layer, n_head } = page.model(state.name).config;
    blocks = Array.from({ length: n_layer }, (_, layer) =>
      el(
        "button",
        { type: "button", class: "kt-out kt-block", click: () => toggle(layer, undefined) },
        `layer ${layer}`,
      ),
    );
    heads = Array.from({ length: n_layer }, (_, layer) =>
      Array.from({ length: n_head }, (_, head) => {
        const canvas = el("canvas", { "aria-hidden": "true" });
        const show = el(
          "button",
          {
            type: "button",
            class: "kt-tile",
            tabindex: "-1",
            click: () => {
              Object.assign(state, { layer, head, key: null });
              clampQuery();
              drawTiles();
              drawHead();
            },
          },
          canvas,
        );
        const caption = el("span", {});
        const out = el(
          "button",
          { type: "button", class: "kt-out", tabindex: "-1", click: () => toggle(layer, head) },
          caption,
        );
        return { layer, head, canvas, show, out, caption };
      }),
    );
    tiles.style.setProperty("--kt-heads", n_head);
    tiles.replaceChildren(
      el("span", {}),
      ...heads[0].map(({ head }) => el("span", { class: "kt-axis" }, `head ${head}`)),
      ...heads.flatMap((row, layer) => [
        blocks[layer],
        ...row.map(({ show, out }) => el("div", {}, show, out)),
      ]),
    );
    chooseTile(heads[0][0].show);
  }

  /**
   * Paint one head's weights into a canvas of one pixel per weight.
   * @returns {number} the weight of the darkest colour
   */
  function paint(canvas, { weights, nQuery, nKey }, head) {
    const part = weights.subarray(head * nQuery * nKey, (head + 1) * nQuery * nKey);
    // the first rows have few keys to choose from, and weights near 1 that say nothing
    const most = part
      .subarray(Math.min(4, nQuery - 1) * nKey)
      .reduce((a, b) => Math.max(a, b), 0.01);
    const image = new ImageData(nKey, nQuery),
      lut = Array.from({ length: 256 }, (_, i) => colourOf(i / 255, page.theme));
    for (let q = 0; q < nQuery; q++) {
      let end = nKey;
      while (end > 0 && part[q * nKey + end - 1] === 0) end--; // the rest of the row is masked
      for (let k = 0; k < nKey; k++) {
        const [r, g, b] =
          k < end
            ? lut[Math.min(255, Math.round((255 * part[q * nKey + k]) / most))]
            : FORBIDDEN[page.theme];
        image.data.set([r, g, b, 255], 4 * (q * nKey + k));
      }
    }
    Object.assign(canvas, { width: nKey, height: nQuery });
    canvas.getContext("2d").putImageData(image, 0, 0);
    return most;
  }

  function drawTiles() {
    for (const { layer, head, canvas, show, out, caption } of heads.flat()) {
      const isGone = isOut(layer, head),
        effect = state.effects?.get(`${layer}.${head}`);
      paint(canvas, recorded(layer), head);
      show.setAttribute("aria-label", `Show layer ${layer}, head ${head}`);
      show.setAttribute("aria-pressed", layer === state.layer && head === state.head);
      out.setAttribute("aria-pressed", isGone);
      out.setAttribute(
        "aria-label",
        `Knock out layer ${layer}, head ${head}` +
          (effect === undefined ? "" : `; without it: ${percent(effect)}`),
      );
      out.title = isGone ? "Restore this head" : "Knock this head out";
      caption.textContent = captionOf(isGone, effect);
    }
    blocks.forEach((block, layer) => {
      const isGone = isOut(layer, undefined);
      block.setAttribute("aria-pressed", isGone);
      block.setAttribute("aria-label", `Skip layer ${layer}: attention and MLP`);
      block.title = isGone ? "Restore this block" : "Skip this block: attention and MLP";
    });
    restore.disabled = !page.knockedOut(state.name).length;
  }

  /** What stands on the button below a tile; many heads leave little room. */
  function captionOf(isGone, effect) {
    const isNarrow = heads[0].length > 4;
    if (effect === undefined) return isNarrow ? "✕" : isGone ? "✕ restore" : "knock out";
    if (isNarrow) return effect < 0.005 ? "<1" : `${Math.round(100 * effect)}`;
    return `✕ ${effect < 0.0005 ? "<0.1 %" : percent(effect)}`;
  }

  /**
   * Probability of the intact answer without each head, one head at a time, written below the
   * tiles.
   */
  function measureHeads() {
    measuring?.stop();
    if (intact.key !== keyOfText()) return; // the text in the field cannot be read
    const { model } = state,
      text = prompt(),
      { answer } = intact;
    const steps = (function* steps() {
      for (const { layer, head } of heads.flat()) {
        yield {
          layer,
          head,
          left: probabilityOf(model, text, answer, { knockedOut: [[layer, head]] }),
        };
      }
    })();
    let worst = { left: 2 };
    state.effects = new Map();
    const note = (one) => {
      state.effects.set(`${one.layer}.${one.head}`, one.left);
      if (one.left < worst.left) worst = one;
      drawTiles();
    };
    measuring = inSlices(steps, note, () => {
      readout.textContent =
        `Below each head: the probability of “${answer}” without it, in per cent (with all heads: ` +
        `${percent(intact.probability)}). ` +
        `It falls most without head ${worst.head} of layer ${worst.layer}.`;
    });
  }

  // ------------------------------------------------------------ one head

  const rowsOfHead = () => attentionAxes(state.model, state.layer, state.reading.ids.length).queries;
  const clampQuery = () => {
    state.query = Math.min(state.query, rowsOfHead().length - 1);
  };
  const character = (t) => state.characters[state.reading.ids[t]];
  const unitName = (unit) =>
    unit.name === "character"
      ? `${spoken(character(unit.from))} (position ${unit.from})`
      : unit.to > unit.from
        ? `${unit.name} (positions ${unit.from} to ${unit.to - 1})`
        : `the ${unit.name}`;

  const offscreen = document.createElement("canvas");
  function drawHead() {
    clampQuery();
    const most = paint(offscreen, recorded(), state.head);
    bar.setMost(`${most.toFixed(2)} or more`);
    const { queries, keys } = attentionAxes(state.model, state.layer, state.reading.ids.length);
    const kind = (units) => (units.at(-1).name === "character" ? "character" : "latent");
    mapTitle.textContent = `Layer ${state.layer}, head ${state.head}`;
    mapNote.textContent =
      `Rows: the ${kind(queries)} that attends. Columns: the ${kind(keys)} attended to. ` +
      "Grey: masked.";
    drawMap();
    drawStrip();
  }

  /** The heat map with its characters, the chosen query as a frame. */
  function drawMap() {
    const { nQuery, nKey } = recorded(),
      { queries, keys } = attentionAxes(state.model, state.layer, state.reading.ids.length);
    const width = Math.min(map.parentElement?.clientWidth || 380, 440),
      margin = 16;
    const cell = Math.min((width - margin) / nKey, 20),
      height = cell * nQuery + margin,
      scale = devicePixelRatio || 1;
    Object.assign(map, { width: Math.round(width * scale), height: Math.round(height * scale) });
    Object.assign(map.style, { width: `${width}px`, height: `${height}px` });
    const context = map.getContext("2d"),
      ink = page.theme === "dark" ? "#e6e6e6" : "#222";
    context.scale(scale, scale);
    context.imageSmoothingEnabled = false;
    context.drawImage(offscreen, margin, 0, cell * nKey, cell * nQuery);
    context.font = `${Math.min(cell, 11)}px monospace`;
    Object.assign(context, { fillStyle: ink, textAlign: "center", textBaseline: "middle" });
    const letter = (unit) =>
      unit.name === "character"
        ? visible(character(unit.from))
        : unit.to > unit.from
          ? unit.name.slice(7)
          : "∅";
    if (cell >= 6) {
      queries.forEach((unit, q) => context.fillText(letter(unit), margin / 2, (q + 0.5) * cell));
      keys.forEach((unit, k) =>
        context.fillText(letter(unit), margin + (k + 0.5) * cell, cell * nQuery + margin / 2),
      );
    }
    Object.assign(context, { strokeStyle: "#D55E00", lineWidth: 2 });
    context.strokeRect(margin, state.query * cell, cell * nKey, cell);
    if (state.key !== null)
      context.strokeRect(margin + state.key * cell, state.query * cell, cell, cell);
    map.setAttribute(
      "aria-label",
      `Heat map of layer ${state.layer}, head ${state.head}: ` +
        `${nQuery} rows attend to ${nKey} columns. ` +
        sentence(),
    );
    state.cell = { cell, margin };
  }

  /** What the chosen query attends to, in words. */
  function sentence() {
    const { weights, nQuery, nKey } = recorded(),
      { queries, keys } = attentionAxes(state.model, state.layer, state.reading.ids.length);
    const row = weights.subarray(
      (state.head * nQuery + state.query) * nKey,
      (state.head * nQuery + state.query + 1) * nKey,
    );
    if (state.key !== null) {
      const [query, key] = [queries[state.query], keys[state.key]].map(unitName);
      return `${query} gives ${key} the weight ${row[state.key].toFixed(3)}.`;
    }
    const parts = largest(row, 4)
      .filter((k) => row[k] > 0.005)
      .map((k) => `${unitName(keys[k])} ${percent(row[k])}`);
    const from = unitName(queries[state.query]);
    return `${from[0].toUpperCase() + from.slice(1)} attends to: ${parts.join(", ")}.`;
  }

  /**
   * The weights of the chosen query over the text itself; a latent's weight is spread over its
   * characters.
   */
  function drawStrip() {
    const { weights, nQuery, nKey } = recorded(),
      T = state.reading.ids.length;
    const { queries, keys } = attentionAxes(state.model, state.layer, T),
      own = queries[state.query];
    const shares = new Float32Array(T),
      from = (state.head * nQuery + state.query) * nKey;
    keys.forEach((unit, k) => {
      for (let t = unit.from; t < unit.to; t++) shares[t] = weights[from + k];
    });
    const most = shares.reduce((a, b) => Math.max(a, b), 1e-9);
    while (strip.children.length > T) strip.lastChild.remove();
    while (strip.children.length < T) {
      const t = strip.children.length;
      strip.append(
        el("span", {
          role: "option",
          tabindex: "-1",
          focus: () => chooseCharacter(t),
          mouseenter: () => chooseCharacter(t),
        }),
      );
    }
    [...strip.children].forEach((span, t) => {
      const isOwn = t >= own.from && t < own.to;
      span.textContent = visible(character(t));
      span.style.cssText = cellStyle(shares[t] / most, page.theme);
      span.classList.toggle("kt-own", isOwn);
      span.classList.toggle("kt-later", t >= own.to && own.name === "character");
      span.setAttribute("aria-selected", isOwn);
      span.setAttribute(
        "aria-label",
        isOwn ? sentence() : `${spoken(character(t))}, position ${t}`,
      );
      span.tabIndex = t === own.to - 1 ? 0 : -1;
    });
    readout.textContent = sentence();
  }
  arrowKeys(strip, () => [[...strip.children]]);

  function chooseCharacter(t) {
    const query = rowsOfHead().findIndex((unit) => t >= unit.from && t < unit.to);
    if (query < 0 || (query === state.query && state.key === null)) return;
    Object.assign(state, { query, key: null });
    drawMap();
    drawStrip();
  }
  map.addEventListener("mousemove", (event) => {
    const box = map.getBoundingClientRect(),
      { cell, margin } = state.cell,
      { nQuery, nKey } = recorded();
    const key = Math.floor((event.clientX - box.left - margin) / cell),
      query = Math.floor((event.clientY - box.top) / cell);
    if (
      key < 0 ||
      key >= nKey ||
      query < 0 ||
      query >= nQuery ||
      (key === state.key && query === state.query)
    )
      return;
    Object.assign(state, { key, query });
    drawMap();
    drawStrip();
  });
  map.addEventListener("mouseleave", () => {
    state.key = null;
    drawMap();
    drawStrip();
  });

  // ------------------------------------------------------------ together

  page.onKnockOut((name) => {
    if (name === state.name) update();
  });
  page.onTheme = () => {
    if (state.reading) {
      drawTiles();
      drawHead();
    }
  };
  const root = el(
    "div",
    {},
    tryFirst(
      page,
      "press “Try each head in turn”, then knock out the head that matters most " +
        "and read the new answer.",
    ),
    field.element,
    ...(page.names.length > 1 ? [choice.element] : []),
    status,
    el("p", { class: "kt-title" }, "The text, coloured by what the framed character attends to"),
    strip,
    readout,
    el(
      "div",
      { class: "kt-two" },
      el(
        "div",
        {},
        el("p", { class: "kt-title" }, "All heads"),
        el("p", { class: "kt-note" }, "A picture shows its head; “layer” skips the whole block."),
        tiles,
        el("div", { class: "kt-chips" }, measure, restore),
      ),
      el("div", {}, mapTitle, map, mapNote, bar),
    ),
  );
  buildTiles();
  update(page.start.head === undefined);
  new ResizeObserver(
    onceAFrame(() => {
      if (state.reading) drawMap();
    }),
  ).observe(root);
  return root;
}

views.attention = attentionView;
