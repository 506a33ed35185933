import { topAnswers } from "./kt_analysis.js";
import { bars, el, onceAFrame, percent, questionField, tryFirst, views } from "./kt_ui.js";

/**
 * Ask the models: the likeliest whole answers of several models to one question, side by side.
 *
 * @param {Page} page models, examples and knock-outs of this page
 * @returns {HTMLElement}
 */
function askView(page) {
  const { names, examples } = page;
  // for screen readers: the cards say the same to the eye
  const status = el("p", { class: "kt-hidden", role: "status" });
  const cards = names.map((name) => ({
    name,
    label: page.label(name),
    answer: el("p", { class: "kt-answer" }),
    list: el("ol", { class: "kt-answers" }),
  }));
  const root = el("div", {});
  let run = 0,
    question = examples[0]?.question ?? "";

  const ask = (name) => {
    const model = page.model(name),
      knockedOut = page.knockedOut(name);
    return topAnswers(model, question, 5, { knockedOut });
  };
  const show = ({ label, answer, list }, answers, truth) => {
    const best = answers[0];
    const verdict =
      truth === undefined ? "" : best.answer === truth ? " ✓ correct" : ` ✗ correct: ${truth}`;
    answer.replaceChildren(
      el("strong", {}, best.answer || "(an empty answer)"),
      el("span", { class: "kt-verdict" }, verdict),
    );
    list.replaceChildren(
      ...bars(
        answers.map(({ answer, probability }) => ({
          name: answer || "(empty)",
          share: probability,
          isTrue: truth === undefined ? undefined : answer === truth,
        })),
      ),
    );
    return `${label}: ${best.answer || "an empty answer"}, ${percent(best.probability)}${verdict}`;
  };
  const update = () => {
    const mine = ++run,
      truth = examples.find((one) => one.question === question)?.answer;
    const messages = [];
    const next = (i) => {
      // one model per frame, so that the first answer does not wait for the last
      if (mine !== run) return;
      try {
        messages.push(show(cards[i], ask(cards[i].name), truth));
      } catch (error) {
        status.textContent = error.message;
        status.className = "kt-status";
        root.classList.add("kt-stale");
        return;
      }
      root.classList.remove("kt-stale");
      status.className = "kt-hidden";
      if (i + 1 < cards.length) requestAnimationFrame(() => setTimeout(next, 0, i + 1));
      else status.textContent = messages.join(". ");
    };
    next(0);
  };
  const field = questionField({
    label: "Your question",
    value: question,
    examples,
    changed: (text) => {
      question = text;
      later();
    },
  });
  const later = onceAFrame(update);
  page.onKnockOut(later);

  root.append(
    tryFirst(
      page,
      `${names.length > 1 ? "compare the answers, then " : ""}change one letter of the name and ` +
        "watch the confidence fall.",
    ),
    field.element,
    status,
    el(
      "div",
      { class: "kt-cards" },
      ...cards.map(({ label, answer, list }) =>
        el("section", { "aria-label": label }, el("p", { class: "kt-title" }, label), answer, list),
      ),
    ),
    el(
      "p",
      { class: "kt-note" },
      "Bars: probability of each whole answer, found by a beam search of width 5. ",
      "The first line is the likeliest answer. Wrong answers are grey.",
    ),
  );
  update();
  return root;
}

views.ask = askView;
