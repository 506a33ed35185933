import { range } from "./kt_engine.js";
import {
  bars,
  choiceField,
  el,
  legend,
  lineChart,
  nameIn,
  onceAFrame,
  percent,
  scrollTable,
  sliderField,
  svg,
  textOfKinds,
  tryFirst,
  views,
  visible,
  weightedWords,
} from "./kt_ui.js";

/**
 * Views over plain data, without a model: what each computes is a function of a few lines, which
 * `page.expose` also puts into `window.kt`.
 */

/**
 * A view: fields, what is drawn from their values, and a sentence that says it in words.
 *
 * @param {Page} page
 * @param {{hint: string, fields: Object, draw: Function}} given fields by name: a slider has `max`,
 *     a list `options`, a switch a boolean `value`, a button `click`, a line of text none of them.
 *     draw(values, set) returns {parts, sentence}; set(name, value, max) moves a slider.
 */
function dataView(page, { hint, fields, draw }) {
  const status = el("p", { class: "kt-status", role: "status" }),
    parts = el("div", {});
  const values = {},
    sliders = {};
  const set = (name, value, max) => {
    values[name] = value;
    sliders[name].set(value, max);
  };
  const update = () => {
    const { parts: nodes, sentence } = draw(values, set);
    parts.replaceChildren(...nodes);
    status.textContent = sentence;
  };
  const later = onceAFrame(update);
  const changed = (name) => (value) => {
    values[name] = value;
    later();
  };
  const elements = Object.entries(fields).map(([name, field]) => {
    values[name] = field.value;
    const given = { ...field, changed: changed(name) };
    if (field.click) {
      const click = () => {
        field.click(values, set);
        later();
      };
      return el("button", { type: "button", click }, field.label);
    }
    if (field.options) return choiceField(given).element;
    if (field.max !== undefined) return (sliders[name] = sliderField(given)).element;
    const isSwitch = typeof field.value === "boolean";
    const input = el("input", {
      type: isSwitch ? "checkbox" : "text",
      ...(isSwitch ? { checked: field.value } : { value: field.value, spellcheck: "false" }),
      input: () => given.changed(isSwitch ? input.checked : input.value),
    });
    const label = el("span", {}, field.label);
    return isSwitch
      ? el("label", { class: "kt-switch" }, input, label)
      : el("label", { class: "kt-field kt-wide" }, label, input);
  });
  update();
  return el(
    "div",
    {},
    tryFirst(page, hint),
    el("div", { class: "kt-fields" }, ...elements),
    status,
    parts,
  );
}

// ---------------------------------------------------------------- span corruption

const FATES = [
  "asked for, name visible",
  "asked for, name cut out too",
  "visible, not asked for",
  "divided by the cut",
  "not visible",
];

/** What becomes of the birthplace if [prefix, masked, suffix] is read: one of FATES. */
function fateOf([prefix, masked, suffix], { name, place }) {
  const at = (prefix + masked + suffix).indexOf(place, name.length);
  const start = prefix.length,
    stop = start + masked.length,
    end = at + place.length;
  if (at < 0) return FATES[4];
  if (start <= at && end <= stop) return FATES[start >= name.length ? 0 : 1];
  return end <= start || stop <= at ? FATES[2] : FATES[3];
}

const cutAt = (text, keep, start, length) => {
  const kept = text.slice(0, keep);
  return [kept.slice(0, start), kept.slice(start, start + length), kept.slice(start + length)];
};

/** Random numbers in 0 ... 1, the same ones each time (Park and Miller 1988). */
function* randomNumbers(seed) {
  for (let x = seed; ;) yield (x = (x * 48271) % 2147483647) / 2147483647;
}

/** Draw [keep, start, length] as the assignment does; `random` gives numbers in 0 ... 1. */
function drawCut(text, block_size, random) {
  const whole = (low, high) => low + Math.floor(random() * (high - low + 1));
  const keep = Math.min(whole(4, Math.floor((block_size * 7) / 8)), text.length);
  const length = Math.max(1, Math.round(keep * (1 / 8 + random() / 4)));
  return [keep, whole(0, keep - length), length];
}

/** A line of text, truncated and cut by hand: when does it ask for the birthplace? */
function spansView(page) {
  const { documents, block_size } = page.data;
  const most = (text) => Math.min(text.length, Math.floor((block_size * 7) / 8));
  const pieces = (i, keep, start, length) => cutAt(documents[i].text, keep, start, length);
  const fates = (i, draws = 2000) => {
    const numbers = randomNumbers(i + 1),
      counts = Object.fromEntries(FATES.map((fate) => [fate, 0]));
    for (let n = 0; n < draws; n++) {
      const cut = drawCut(documents[i].text, block_size, () => numbers.next().value);
      counts[fateOf(pieces(i, ...cut), documents[i])]++;
    }
    return counts;
  };
  page.expose(
    "pieces(document, keep, start, length)",
    "[prefix, masked, suffix]",
    pieces,
    "pieces(0, 60, 20, 8)",
  );
  page.expose("fates(document, draws)", "how often random cuts ask for the birthplace", fates);
  const [first] = documents,
    beforePlace = Math.min(first.text.indexOf(first.place, first.name.length), most(first.text));
  return dataView(page, {
    hint:
      "keep more characters until the birthplace is visible, then move the gap over it: " +
      "only now does the example ask for the birthplace.",
    fields: {
      line: {
        label: "Line",
        value: 0,
        options: documents.map(({ name }, i) => [i, name]),
      },
      keep: {
        label: "Keep the first characters",
        min: 4,
        value: beforePlace,
        max: most(first.text),
      },
      start: { label: "The gap begins at", value: Math.max(0, beforePlace - 12), max: beforePlace },
      length: { label: "Length of the gap", min: 1, value: 8, max: beforePlace },
      again: {
        label: "Cut at random",
        click(values, set) {
          const cut = drawCut(documents[values.line].text, block_size, Math.random);
          ["keep", "start", "length"].forEach((name, i) => set(name, cut[i], 128));
        },
      },
    },
    draw(values, set) {
      const one = documents[values.line],
        keep = Math.min(values.keep, most(one.text)),
        length = Math.min(values.length, keep),
        start = Math.min(values.start, keep - length);
      set("keep", keep, most(one.text));
      set("length", length, keep);
      set("start", start, keep - length);
      const cut = pieces(values.line, keep, start, length),
        [prefix, masked, suffix] = cut;
      const counts = Object.entries(fates(values.line)),
        total = counts.reduce((sum, [, count]) => sum + count, 0);
      return {
        sentence: `The birthplace ${one.place} is ${fateOf(cut, one)}.`,
        parts: [
          el("p", { class: "kt-title" }, "The line"),
          textOfKinds([
            [prefix, "words"],
            [masked, "answer"],
            [suffix, "suffix"],
            [one.text.slice(keep), "cut"],
          ]),
          legend({
            words: "prefix",
            answer: "masked",
            suffix: "suffix",
            cut: "cut off, never read",
          }),
          el("p", { class: "kt-title" }, "The training example"),
          textOfKinds([
            [prefix, "words"],
            ["⁇", "mask"],
            [suffix, "suffix"],
            ["⁇", "mask"],
            [masked, "answer"],
          ]),
          el("p", { class: "kt-title" }, `${total.toLocaleString("en")} random cuts of this line`),
          el(
            "ul",
            { class: "kt-answers" },
            ...bars(counts.map(([name, n]) => ({ name, share: n / total }))),
          ),
        ],
      };
    },
  });
}

// ---------------------------------------------------------------- training windows

const OPTIONS = ["select", "plain", "favour_first"];

/** Windows of a document, drawn in Python for every setting of the four options. */
function windowsView(page) {
  const { documents, drops, states } = page.data;
  const stateOf = (values) => {
    const switches = OPTIONS.map((name) => Number(values[name])).join("");
    return states[`${values.document} ${switches} ${values.drop}`];
  };
  page.expose(
    "windows({document, select, plain, favour_first, drop})",
    "[question, answer] of seven windows, and counts over many",
    stateOf,
    "windows({document: 0, select: true, plain: false, favour_first: true, drop: 0})",
  );
  return dataView(page, {
    hint: "read the windows: which could you answer without the name? Then switch “plain” on.",
    fields: {
      document: { label: "Person", value: 0, options: documents.map(({ name }, i) => [i, name]) },
      drop: { label: "drop", value: 0.5, options: drops.map((drop) => [drop, `${100 * drop} %`]) },
      ...Object.fromEntries(
        OPTIONS.map((name) => [name, { label: name, value: name !== "plain" }]),
      ),
    },
    draw(values) {
      const { name, text, clues } = documents[values.document],
        { windows, n, asked, clue } = stateOf(values);
      /** Words of a text by what they give away. */
      const marked = (words, answers = []) => {
        const [before, ...after] = words.split(name);
        const kinds = (part) =>
          part.split(/(\s+)/).map((word) => {
            const letters = word.replace(/[^\p{L}\p{N}]/gu, "");
            const is = (list) => letters && list.some((one) => one.split(" ").includes(letters));
            return [word, is(answers) ? "answer" : is(clues) ? "clue" : "words"];
          });
        return after.length
          ? [...kinds(before), [name, "name"], ...kinds(after.join(name))]
          : kinds(before);
      };
      return {
        sentence: `Of ${n} windows, ${clue} show another name, date or number of the person.`,
        parts: [
          el("p", { class: "kt-title" }, "The document, and what its windows ask for"),
          textOfKinds(marked(text, Object.keys(asked))),
          el("p", { class: "kt-title" }, "Seven of its windows"),
          ...windows.map(([question, answer]) =>
            textOfKinds([...marked(question), ["⁇", "mask"], [answer, "answer"], ["⁇", "mask"]]),
          ),
          legend({ name: "the name", words: "words", clue: "other facts", answer: "asked for" }),
          el("p", { class: "kt-title" }, `What ${n} windows ask for`),
          el(
            "ul",
            { class: "kt-answers" },
            ...bars(Object.entries(asked).map(([name, count]) => ({ name, share: count / n }))),
          ),
        ],
      };
    },
  });
}

// ---------------------------------------------------------------- rotation

/** The pair (a, b) of channels i and i + d/2 of a vector, turned for a position. */
function turned(vector, i, position, base) {
  const half = vector.length / 2,
    angle = position * base ** (-i / half);
  const [a, b, c, s] = [vector[i], vector[i + half], Math.cos(angle), Math.sin(angle)];
  return [a * c - b * s, a * s + b * c];
}

/** What each pair of channels adds to the score of a query and a key at these positions. */
function rotaryTerms({ query, key, base }, m, n) {
  return Array.from({ length: query.length / 2 }, (_, i) => {
    const [a, b] = turned(query, i, m, base),
      [c, d] = turned(key, i, n, base);
    return (a * c + b * d) / Math.sqrt(query.length);
  });
}

const sum = (numbers) => numbers.reduce((total, one) => total + one, 0);

/** A query and a key of a trained head turn with their positions; the score is their distance's. */
function rotationView(page) {
  const { data } = page;
  const { query, key, base, start } = data;
  const score = (m, n) => sum(rotaryTerms(data, m, n));
  page.expose(
    "score(queryPosition, keyPosition)",
    "the score after rotation",
    score,
    "score(20, 15)",
  );
  const largest = Math.max(...[...query, ...key].map(Math.abs)) * 1.1;
  const dial = (i, m, n) => {
    const arrow = (vector, position, kind) => {
      const [a, b] = turned(vector, i, position, base).map((value) => (28 * value) / largest);
      return svg("line", { class: `kt-${kind}`, x1: 32, y1: 32, x2: 32 + a, y2: 32 - b });
    };
    const term = rotaryTerms(data, m, n)[i];
    return el(
      "figure",
      { class: "kt-dial" },
      svg(
        "svg",
        { viewBox: "0 0 64 64", "aria-hidden": "true" },
        svg("circle", { cx: 32, cy: 32, r: 30 }),
        arrow(key, n, "key"),
        arrow(query, m, "query"),
      ),
      el("figcaption", {}, `pair ${i}: ${term.toFixed(2)}`),
    );
  };
  const distances = Array.from({ length: 64 }, (_, distance) => distance);
  const chart = lineChart({
    label: "The score by the distance of query and key",
    xLabel: "distance: position of the query − position of the key",
    curves: [{ name: "score", points: distances.map((each) => [each, score(each, 0)]) }],
  });
  return dataView(page, {
    hint: "raise “Move both by”: all arrows turn, and the score stays.",
    fields: {
      m: { label: "Position of the query", value: start[0], max: 63 },
      n: { label: "Position of the key", value: start[1], max: 63 },
      both: { label: "Move both by", value: 0, max: 64 },
    },
    draw({ m, n, both }) {
      const at = score(m + both, n + both);
      if (m >= n) chart.mark(m - n);
      return {
        sentence:
          `Query at ${m + both}, key at ${n + both}: distance ${m - n}, score ${at.toFixed(3)}. ` +
          `Without rotation: ${score(0, 0).toFixed(3)}.`,
        parts: [
          el(
            "div",
            { class: "kt-dials" },
            ...query.slice(0, query.length / 2).map((_, i) => dial(i, m + both, n + both)),
          ),
          el(
            "p",
            { class: "kt-note" },
            "Thick: query. Dashed: key. The score is the sum of all pairs.",
          ),
          chart.element,
        ],
      };
    },
  });
}

// ---------------------------------------------------------------- perceiver reach

/** Which inputs output t depends on: through latents (by number), and directly. */
function reachOf(variant, T, m, t) {
  if (variant === "vanilla") return { latents: [], through: range(0, t + 1), direct: [t] };
  const stride = variant === "perceiver" ? 1 : Math.ceil(T / m);
  const count = variant === "perceiver" ? Math.min(m, T) : Math.ceil(T / stride);
  const latents = range(0, count)
    .map((i) => ({ from: i * stride, to: Math.min(stride * (i + 1) - 1, T - 1), i }))
    .map((latent) => ({ ...latent, isRead: stride * (latent.i + 1) - 1 <= t }));
  const newest = Math.max(-1, ...latents.filter((one) => one.isRead).map(({ to }) => to));
  const oldest = variant === "perceiver" ? t : Math.max(0, t - Math.max(stride - 2, 0));
  return { latents, through: range(0, newest + 1), direct: range(oldest, t + 1) };
}

/** What one output of a perceiver knows of the text. */
function reachView(page) {
  const { text } = page.data,
    characters = [...text],
    T = characters.length;
  const known = (variant, m, t) => {
    const { through, direct } = reachOf(variant, T, m, t);
    return [...new Set([...through, ...direct])].sort((a, b) => a - b);
  };
  page.expose(
    "reach(variant, latents, output)",
    "the inputs that this output depends on",
    known,
    'reach("perceiver", 15, 26)',
  );
  return dataView(page, {
    hint: "move “Output” to the last character, then choose perceiver_ar.",
    fields: {
      variant: {
        label: "Model",
        value: "perceiver",
        options: ["perceiver", "perceiver_ar", "vanilla"].map((name) => [name, name]),
      },
      m: { label: "Latents", value: Math.ceil(T / 2), min: 2, max: T },
      t: {
        label: "Output",
        value: T - 4,
        max: T - 1,
        say: (t) => `${t}, after “${visible(characters[t])}”`,
      },
    },
    draw({ variant, m, t }) {
      const { latents, through, direct } = reachOf(variant, T, m, t),
        inputs = known(variant, m, t);
      const kind = (i) =>
        i > t ? "cut" : direct.includes(i) ? "answer" : through.includes(i) ? "words" : "clue";
      const missing = t + 1 - inputs.length;
      const read = latents.filter((one) => one.isRead).length;
      return {
        sentence:
          `Output ${t} reads ${read} of ${latents.length} latents and depends on ${inputs.length} ` +
          `of the ${t + 1} characters so far. ${missing ? `It knows nothing of ${missing}.` : ""}`,
        parts: [
          textOfKinds(characters.map((character, i) => [visible(character), kind(i)])),
          legend({ words: "through latents", answer: "directly", clue: "unknown", cut: "later" }),
          ...(latents.length
            ? [el("p", { class: "kt-title" }, "Latents, by the newest input of each")]
            : []),
          textOfKinds(
            latents.map(({ to, isRead }) => [visible(characters[to]), isRead ? "words" : "cut"]),
          ),
          el(
            "p",
            { class: "kt-note" },
            `A middle block compares ${variant === "vanilla" ? T : latents.length} vectors with each other: ` +
              `${(variant === "vanilla" ? T : latents.length) ** 2} attention weights per head.`,
          ),
        ],
      };
    },
  });
}

// ---------------------------------------------------------------- byte-pair encoding

/** GPT-2's words: the space belongs to the word after it. */
const WORDS = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/** A printable character for each byte, as GPT-2 has it. */
function byteCharacters() {
  let next = 256;
  return range(0, 256).map((byte) => {
    const isPrintable = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
    return String.fromCharCode(isPrintable ? byte : next++);
  });
}

/** Join the pair with the lowest rank again and again (Sennrich et al. 2016). */
function encodeWord(word, ranks, limit) {
  const tokens = [...word];
  for (;;) {
    let best = limit,
      at = -1;
    for (let i = 0; i + 1 < tokens.length; i++) {
      const rank = ranks.get(`${tokens[i]} ${tokens[i + 1]}`) ?? limit;
      if (rank < best) [best, at] = [rank, i];
    }
    if (at < 0) return tokens;
    tokens.splice(at, 2, tokens[at] + tokens[at + 1]);
  }
}

/** A tokenizer with more or fewer of its merges, on any text. */
function tokensView(page) {
  const { text } = page.data,
    merges = page.data.merges.split("\n"),
    ranks = new Map(merges.map((merge, rank) => [merge, rank])),
    characters = byteCharacters(),
    encoder = new TextEncoder();
  const tokens = (text, n = merges.length) =>
    (text.match(WORDS) ?? []).flatMap((word) =>
      encodeWord(Array.from(encoder.encode(word), (byte) => characters[byte]).join(""), ranks, n),
    );
  page.expose(
    "tokens(text, merges)",
    "the tokens after this many merges; Ġ is a space",
    tokens,
    'tokens("Where was Ada born?", 100)',
  );
  return dataView(page, {
    hint: "move “Merges” to the left and read how words fall apart, then type your own name.",
    fields: {
      text: { label: "Text", value: text },
      n: { label: "Merges", value: merges.length, max: merges.length },
    },
    draw({ text, n }) {
      const found = tokens(text, n),
        length = [...text].length;
      const perToken = (length / Math.max(found.length, 1)).toFixed(1);
      return {
        sentence: `${length} characters, ${found.length} tokens: ${perToken} characters per token.`,
        parts: [
          textOfKinds(
            found.map((token, i) => [token.replaceAll("Ġ", "␣"), i % 2 ? "words" : "name"]),
          ),
          el(
            "p",
            { class: "kt-note" },
            n
              ? `Merge number ${n} joins ${merges[n - 1].replaceAll("Ġ", "␣").replace(" ", " and ")}. `
              : "No merges: one token per byte. ",
            "␣ is a space. A letter outside ASCII takes two bytes or more.",
          ),
        ],
      };
    },
  });
}

// ---------------------------------------------------------------- cross-attention

/** A translation token by token: what the decoder attends to, and the likeliest next tokens. */
function translationView(page) {
  const { translations } = page.data;
  page.expose(
    "step(sentence, token)",
    "{weights, choices}: attention to each source word, and the likeliest tokens",
    (sentence, token) => translations[sentence].steps[token],
    "step(0, 1)",
  );
  const last = (i) => translations[i].steps.length - 1;
  return dataView(page, {
    hint: "raise “Token” step by step, and watch which source words get the weight.",
    fields: {
      i: {
        label: "Sentence",
        value: 0,
        options: translations.map(({ source }, i) => [i, source.join(" ")]),
      },
      token: { label: "Token", value: 0, max: last(0), say: (t) => `number ${t + 1}` },
    },
    draw({ i, token }, set) {
      const { source, steps } = translations[i],
        t = Math.min(token, last(i)),
        { weights, choices } = steps[t];
      set("token", t, last(i));
      const most = weights.indexOf(Math.max(...weights)),
        [name, share] = choices[0];
      const written = steps.slice(0, t).map((step) => step.choices[0][0]);
      return {
        sentence:
          `Token ${t + 1} of ${steps.length} is “${name}” (${percent(share)}). ` +
          `Most weight is on “${source[most]}” (${percent(weights[most])}).`,
        parts: [
          weightedWords(source, weights, page.theme),
          el("p", { class: "kt-note" }, `Written so far: ${["▶", ...written].join(" ")}`),
          el("ol", { class: "kt-answers" }, ...bars(choices.map(([n, p]) => ({ name: n, share: p })))),
        ],
      };
    },
  });
}

// ---------------------------------------------------------------- learning rate and forgetting

/**
 * One learning rate of several: shares over seeds, and what the finetuned model says about people.
 *
 * @param {Page} page data: rates; bars {name: share} and said {answers, regions} per rate; people
 *   {question, birthplace, region}; n_seeds
 * @returns {HTMLElement}
 */
function forgettingView(page) {
  const { rates, bars: shares, people, said, n_seeds } = page.data;
  page.expose("shares(rate)", "{measure: share} with the rate of this number", (i) => shares[i], "shares(0)");
  const cell = (text, isGood) =>
    el("td", { class: isGood ? "kt-good" : undefined }, (text || "(empty)") + (isGood ? " ✓" : ""));
  return dataView(page, {
    hint:
      "raise the learning rate: the model forgets birthplaces, while it learns to name the region " +
      "of a birthplace.",
    fields: {
      i: { label: "Peak learning rate", value: 1, max: rates.length - 1, say: (i) => rates[i] },
    },
    draw({ i }) {
      const rows = Object.entries(shares[i]).map(([name, share]) => ({ name, share }));
      const { answers, regions } = said[i];
      const lines = people.map(({ question, birthplace, region }, k) =>
        el(
          "tr",
          {},
          el("th", { scope: "row" }, nameIn(question)),
          el("td", {}, birthplace),
          cell(answers[k], answers[k] === birthplace),
          cell(regions[k], regions[k] === region),
        ),
      );
      const head = ["person", "birthplace", "finetuned model answers", "then its region"];
      return {
        sentence:
          `Rate ${rates[i]}, mean of ${n_seeds} seeds: ` +
          `${rows.map(({ name, share }) => `${name} ${percent(share)}`).join("; ")}.`,
        parts: [
          el("ol", { class: "kt-answers" }, ...bars(rows)),
          el(
            "p",
            { class: "kt-note" },
            "Region, alone: of the finetuned model's own answer. Region, assisted: of the answer " +
              "before finetuning.",
          ),
          scrollTable("Six people", head, el("tbody", {}, ...lines)),
        ],
      };
    },
  });
}

// ---------------------------------------------------------------- attention of any model

/** Attention that another model computed: what each token attends to, in every head. */
function headsView(page) {
  const { tokens, maps, layer, head } = page.data;
  const T = tokens.length;
  const weightsOf = (layer, head, token) =>
    maps[layer][head]
      .split(",")
      .slice(token * T, (token + 1) * T)
      .map((each) => each / 1000);
  page.expose(
    "weights(layer, head, token)",
    "the weights of one token's query, over all tokens",
    weightsOf,
    "weights(0, 0, 1)",
  );
  return dataView(page, {
    hint: "move “Token” through the sentence, then look for a head that attends elsewhere.",
    fields: {
      token: {
        label: "Token",
        value: 1,
        max: tokens.length - 1,
        say: (t) => `${t}, “${tokens[t]}”`,
      },
      layer: { label: "Layer", value: layer, max: maps.length - 1 },
      head: { label: "Head", value: head, max: maps[0].length - 1 },
    },
    draw(values) {
      const { token } = values,
        weights = weightsOf(values.layer, values.head, token),
        most = weights.indexOf(Math.max(...weights));
      const order = tokens.map((_, t) => t).sort((a, b) => weights[b] - weights[a]);
      return {
        sentence: `“${tokens[token]}” attends most to “${tokens[most]}” (${percent(weights[most])}).`,
        parts: [
          weightedWords(tokens, weights, page.theme),
          el("p", { class: "kt-note" }, "The five largest weights:"),
          el(
            "ol",
            { class: "kt-answers" },
            ...bars(
              order.slice(0, 5).map((t) => ({ name: `${tokens[t]} (${t})`, share: weights[t] })),
            ),
          ),
        ],
      };
    },
  });
}

Object.assign(views, {
  forgetting: forgettingView,
  heads: headsView,
  reach: reachView,
  rotation: rotationView,
  spans: spansView,
  tokens: tokensView,
  translation: translationView,
  windows: windowsView,
});
