// What anywidget starts in JupyterLab, VS Code and Colab: it asks the kernel for the engine and the
// weights, then mounts the view. It is small, because anywidget (0.11) gives a widget's script two
// seconds to start; after that it drops every message to the widget, for good.

const PATIENCE = 5000; // milliseconds from asking until we listen to the kernel ourselves

let receive;
const parts = new Promise((resolve) => {
  receive = (content, weights) => content.kind === "parts" && resolve({ ...content, weights });
});

/** The engine with this text; all explorers of a page share one. */
function engineOf(text) {
  const engines = (globalThis.ktEngines ??= new Map());
  if (!engines.has(text)) {
    const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
    engines.set(text, import(url));
  }
  return engines.get(text);
}

/** Receive the widget's messages from its comm, without anywidget in between. */
async function listen(model) {
  const widget = await model.widget_manager?.get_model?.(model.get("given").id);
  widget?.comm?.on_msg(({ content: { data }, buffers }) => {
    if (data.method === "custom") receive(data.content, buffers);
  });
}

function render({ model, el: root }) {
  const place = root.appendChild(document.createElement("div"));
  place.innerHTML = "<p>Loading the model …</p>";
  const ask = () => model.send({ kind: "parts?" });
  model.on("msg:custom", receive);
  ask();
  const retry = setTimeout(() => listen(model).then(ask), PATIENCE);
  parts.then(async ({ engine, weights }) => {
    clearTimeout(retry);
    const { mount } = await engineOf(engine);
    const given = structuredClone(model.get("given"));
    given.models.forEach((one, i) => (one.weights = weights[i]));
    mount(place, given);
  });
  return () => {
    clearTimeout(retry);
    model.off("msg:custom", receive);
  };
}

export default { render };
