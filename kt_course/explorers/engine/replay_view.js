import { topAnswers } from "./kt_analysis.js";
import {
  el,
  lineChart,
  nameIn,
  onceAFrame,
  percent,
  questionField,
  scrollTable,
  sliderField,
  tryFirst,
  views,
} from "./kt_ui.js";

/**
 * Training replay: a recorded run with the model of several of its steps, which answers live.
 *
 * @param {Page} page its models are the snapshots, in order; `start.record` is data/results/replay.json
 * @returns {HTMLElement}
 */
function replayView(page) {
  const { curve, snapshots, people, total } = page.start.record;
  const pretrained = snapshots.findLastIndex(({ stage }) => stage === "pretraining");
  const state = { at: pretrained, text: page.examples[0].question };
  const series = (key, scale = 1) => curve.map((point) => [point.step, scale * point[key]]);
  const charts = [
    lineChart({
      label: `The loss falls from ${curve[0].loss} to ${curve.at(-1).loss} over the training.`,
      xLabel: "training step",
      curves: [{ name: "loss (nats per character)", points: series("loss") }],
    }),
    lineChart({
      label: `Correct answers to windows and to questions, of ${total} people each, over the training.`,
      xLabel: "training step",
      yMax: 100,
      curves: [
        { name: "windows, % correct", points: series("windows", 100 / total), dash: "5 3" },
        { name: "questions, % correct", points: series("questions", 100 / total) },
      ],
    }),
  ];
  const status = el("p", { class: "kt-status", role: "status" });
  const own = el("p", { class: "kt-status kt-answer", role: "status" });
  const body = el("tbody", {});
  const field = questionField({
    label: "Ask the model of this step",
    value: state.text,
    examples: [
      ...page.examples.slice(0, 2),
      { question: people[0].window },
      { question: people[1].window },
    ],
    changed: (text) => {
      state.text = text;
      answerLater();
    },
  });
  const when = ({ stage, step }) => `${step} (${stage})`;
  const slider = sliderField({
    label: "Training step",
    value: state.at,
    max: snapshots.length - 1,
    say: (at) => when(snapshots[at]),
    changed: (at) => {
      state.at = at;
      updateLater();
    },
  });
  const model = () => page.model(page.names[state.at]);

  function answer() {
    try {
      const [best] = topAnswers(model(), state.text, 1);
      const words = best.answer || "(an empty answer)";
      own.replaceChildren(
        "It answers: ",
        el("strong", {}, words),
        ` (${percent(best.probability)})`,
      );
    } catch (error) {
      own.textContent = error.message;
    }
  }
  function update() {
    const now = snapshots[state.at];
    for (const chart of charts) chart.mark(now.step);
    const cell = (text, city) => {
      const words = model().answer(text),
        short = words.length > 18 ? `${words.slice(0, 18)}…` : words;
      return words === city
        ? el("td", { class: "kt-good" }, `${words} ✓`)
        : el("td", {}, short || "(empty)");
    };
    body.replaceChildren(
      ...people
        .slice(0, 6)
        .map(({ window, question, city }) =>
          el(
            "tr",
            {},
            el(
              "th",
              { scope: "row" },
              `${nameIn(question)}, ${city}`,
            ),
            cell(window, city),
            cell(question, city),
          ),
        ),
    );
    status.textContent =
      `Step ${when(now)}: ${now.windows} of ${total} windows and ` +
      `${now.questions} of ${total} questions are answered correctly.`;
    answer();
  }
  const answerLater = onceAFrame(answer),
    updateLater = onceAFrame(update);
  const head = ["person, birthplace", "window", "question"];

  update();
  return el(
    "div",
    {},
    tryFirst(
      page,
      "move the slider one step to the right, to the end of finetuning: now the model answers " +
        "most questions. Then go back to step 0.",
    ),
    slider.element,
    status,
    el("div", { class: "kt-two" }, ...charts.map(({ element }) => element)),
    scrollTable("Answers of this step", head, body),
    el(
      "p",
      { class: "kt-note" },
      "Window: words of the person's lines, as in pretraining, such as ",
      `“${people[0].window}”. Question: “${people[0].question}”.`,
    ),
    field.element,
    own,
  );
}

views.replay = replayView;
