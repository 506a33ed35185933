import { lens, patchEverywhere, patchesFrom } from "./kt_analysis.js";
import {
  arrowKeys,
  cellStyle,
  choiceField,
  colourBar,
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
 * A grid of coloured cells, states of the residual stream by characters of a text, that keys and
 * mouse can walk.
 *
 * @param {{label: string, chosen: (row: number, column: number) => void, picked?: Function}} given
 */
function cellGrid({ label, chosen, picked = () => {} }) {
  const body = el("div", { class: "kt-cells", role: "grid", "aria-label": label });
  const scroller = el("div", { class: "kt-scroll" }, body);
  let cells = [];
  const choose = arrowKeys(body, () => cells);
  return {
    element: scroller,
    /** Build the cells anew: names of the rows, characters of the columns. */
    shape(rowNames, columns) {
      body.style.setProperty("--kt-columns", columns.length);
      cells = rowNames.map((_, row) =>
        columns.map((_, column) =>
          el("span", {
            role: "gridcell",
            tabindex: "-1",
            focus: () => chosen(row, column),
            mouseenter: () => chosen(row, column),
            click: () => picked(row, column),
            keydown: (event) => {
              if (event.key === "Enter" || event.key === " ") {
                event.preventDefault();
                picked(row, column);
              }
            },
          }),
        ),
      );
      body.replaceChildren(
        el(
          "div",
          { role: "row" },
          el("span", { role: "columnheader", "aria-label": "state" }),
          ...columns.map((character) =>
            el(
              "span",
              { role: "columnheader", "aria-label": spoken(character) },
              visible(character),
            ),
          ),
        ),
        ...cells
          .map((row, i) =>
            el("div", { role: "row" }, el("span", { role: "rowheader" }, rowNames[i]), ...row),
          )
          .reverse(),
      );
      choose(cells.at(-1).at(-1));
      requestAnimationFrame(() => {
        scroller.scrollLeft = scroller.scrollWidth;
      }); // to the mask
    },
    set(row, column, share, text, description, theme) {
      const cell = cells[row]?.[column];
      if (!cell) return;
      cell.style.cssText = cellStyle(share, theme);
      cell.textContent = text;
      cell.setAttribute("aria-label", description);
    },
    mark(row, column) {
      body.querySelectorAll(".kt-marked").forEach((cell) => cell.classList.remove("kt-marked"));
      cells[row]?.[column]?.classList.add("kt-marked");
    },
  };
}

/**
 * Logit lens and activation patching: where in the model the answer comes up, and which states
 * carry it.
 *
 * @param {Page} page models, examples and knock-outs of this page
 * @returns {HTMLElement}
 */
function lensView(page) {
  const names = page.names.filter((name) => !page.model(name).isPerceiver);
  if (!names.length) throw new Error("the logit lens needs a vanilla or rope model");
  const examples = page.examples;
  const state = {
    name: names[0],
    question: examples[0]?.question ?? "",
    source: null,
    lens: null,
    restored: new Map(),
    window: 7,
  };
  let patching = null;

  const status = el("p", { class: "kt-status kt-answer", role: "status" });
  const lensReadout = el("p", { class: "kt-readout" }),
    patchReadout = el("p", { class: "kt-readout" });
  const patchStatus = el("p", { class: "kt-status kt-answer", role: "status" });
  const lensGrid = cellGrid({
    label: "Logit lens: states by characters",
    chosen: (row, column) => readLens(row, column),
  });
  const patchGrid = cellGrid({
    label: "Patching: states by characters. Enter applies a patch.",
    chosen: (row, column) => readPatch(row, column),
    picked: (row, column) => applyPatch(row, column),
  });
  const neighbours = choiceField({
    label: "Positions replaced together",
    options: ["1", "3", "5", "7"].map((size) => [size, size]),
    value: "7",
    changed: (size) => {
      state.window = Number(size);
      startPatching();
    },
  });
  const source = el("select", {
    change: () => {
      state.source = source.value;
      startPatching();
    },
  });
  const field = questionField({
    label: "Question",
    value: state.question,
    examples,
    changed: (text) => {
      state.question = text;
      later();
    },
  });
  const choice = choiceField({
    label: "Model",
    options: names.map((name) => [name, page.label(name)]),
    value: state.name,
    changed: (name) => {
      state.name = name;
      update();
    },
  });

  const rowName = (row) => (row === 0 ? "embedding" : `after block ${row - 1}`);
  const placeName = (row, column) =>
    `${rowName(row)}, at ${spoken(state.characters[column])} (position ${column}),`;
  const options = () => ({ knockedOut: page.knockedOut(state.name) });

  function update() {
    const model = page.model(state.name),
      text = `${state.question}⁇`;
    try {
      if (!state.question) throw new Error("Type a question first.");
      state.answer = model.answer(state.question, options());
      state.lens = lens(model, text, options());
    } catch (error) {
      status.textContent = error.message;
      field.element.parentElement?.classList.add("kt-stale");
      return;
    }
    field.element.parentElement?.classList.remove("kt-stale");
    const { ids, shares } = state.lens,
      T = ids.length;
    state.characters = ids.map((id) => model.vocabulary[id]);
    state.model = model;
    lensGrid.shape(
      shares.map((_, row) => rowName(row)),
      state.characters,
    );
    drawLens();
    status.replaceChildren(
      "The model answers: ",
      el("strong", {}, state.answer || "an empty answer"),
      `. Its first character is predicted at the mask ⁇, the last column.`,
    );
    readLens(shares.length - 1, T - 1);
    const others = examples
      .map((one) => one.question)
      .filter((one) => one.length === state.question.length && one !== state.question);
    state.source = others.includes(state.source) ? state.source : (others[0] ?? null);
    source.replaceChildren(
      ...others.map((one) => el("option", { value: one, selected: one === state.source }, one)),
    );
    source.disabled = !others.length;
    startPatching();
  }
  const later = onceAFrame(update);

  const cell = (row, column) => {
    const { V } = state.model,
      shares = state.lens.shares[row].subarray(column * V, (column + 1) * V);
    return { shares, top: largest(shares, 3) };
  };
  const words = (shares, top) =>
    top.map((id) => `${spoken(state.model.vocabulary[id])} ${percent(shares[id])}`).join(", ");

  function drawLens() {
    state.lens.shares.forEach((_, row) =>
      state.characters.forEach((character, column) => {
        const { shares, top } = cell(row, column);
        lensGrid.set(
          row,
          column,
          shares[top[0]],
          visible(state.model.vocabulary[top[0]]),
          `${rowName(row)}, at ${spoken(character)} (position ${column}): ${words(shares, top)}`,
          page.theme,
        );
      }),
    );
  }
  function readLens(row, column) {
    const { shares, top } = cell(row, column);
    lensReadout.textContent = `${placeName(row, column)} would predict: ${words(shares, top)}.`;
  }

  // ------------------------------------------------------------ patching

  /**
   * Read the question with one state at a time taken from the other question; colour by the
   * other answer's first letter.
   */
  function startPatching() {
    patching?.stop();
    state.restored.clear();
    patchGrid.element.hidden = !state.source;
    patchReadout.textContent = patchStatus.textContent = "";
    if (!state.source) {
      patchStatus.textContent =
        "Patching needs a second question of the same length: choose another example.";
      return;
    }
    const { model } = state,
      text = `${state.question}⁇`;
    const target = model.answer(state.source, options());
    Object.assign(state, { target, isPatched: false });
    patchGrid.shape(
      state.lens.shares.map((_, row) => rowName(row)),
      state.characters,
    );
    patchStatus.replaceChildren(
      "The other question's answer: ",
      el("strong", {}, target),
      ". Computing every patch …",
    );
    patching = inSlices(
      patchEverywhere(model, text, `${state.source}⁇`, target, state.window, options()),
      (found) => {
        state.restored.set(`${found.state}.${found.position}`, found);
        drawPatch(found);
      },
      () => {
        if (state.isPatched) return; // a learner was quicker: leave what a click has shown
        patchStatus.replaceChildren(
          "The other question's answer: ",
          el("strong", {}, target),
          ". Each cell: its probability if the states around this one are taken from the other ",
          "question. Click a cell to see what the model answers then.",
        );
      },
    );
  }
  function drawPatch({ state: row, position, probability }) {
    patchGrid.set(
      row,
      position,
      probability,
      probability >= 0.1 ? Math.round(100 * probability) : "",
      `${placeName(row, position)} ${percent(probability)}`,
      page.theme,
    );
  }
  function readPatch(row, column) {
    const found = state.restored.get(`${row}.${column}`);
    if (!found) return;
    const first = words(found.shares, largest(found.shares, 3));
    patchReadout.textContent =
      `${placeName(row, column)} from the other question: “${state.target}” has the probability ` +
      `${percent(found.probability)}. Likeliest first characters: ${first}.`;
  }
  function applyPatch(row, column) {
    const reach = (state.window - 1) / 2,
      T = state.characters.length,
      places = [];
    for (
      let position = Math.max(column - reach, 0);
      position <= Math.min(column + reach, T - 1);
      position++
    )
      places.push([row, position]);
    const patches = patchesFrom(state.model, `${state.source}⁇`, places, options());
    const { answer, probability } = state.model.continueText(`${state.question}⁇`, {
      ...options(),
      patches,
    });
    patchGrid.mark(row, column);
    state.isPatched = true;
    patchStatus.replaceChildren(
      `With the states ${rowName(row)} around ${spoken(state.characters[column])} `,
      `(position ${column}) taken from the other question, the model answers: `,
      el("strong", {}, `${answer || "an empty answer"} (${percent(probability)})`),
      `. Without a patch: ${state.answer}.`,
    );
  }

  page.onKnockOut((name) => {
    if (name === state.name) later();
  });
  page.onTheme = () => {
    if (!state.lens) return;
    drawLens();
    for (const found of state.restored.values()) drawPatch(found);
  };
  const root = el(
    "div",
    {},
    tryFirst(
      page,
      "go up the last column: in which block does the first letter of the answer appear? " +
        "Then click a strongly coloured cell of the second grid.",
    ),
    field.element,
    ...(names.length > 1 ? [choice.element] : []),
    status,
    el("p", { class: "kt-title" }, "Logit lens: the likeliest next character, read off each state"),
    lensGrid.element,
    colourBar("probability of the character shown (linear scale)"),
    lensReadout,
    el("p", { class: "kt-title" }, "Patching: which state carries the answer?"),
    el("label", { class: "kt-field" }, el("span", {}, "Take states from"), source),
    neighbours.element,
    patchGrid.element,
    colourBar("probability of the other question's answer (linear scale), numbers in per cent"),
    patchStatus,
    patchReadout,
  );
  update();
  return root;
}

views.lens = lensView;
