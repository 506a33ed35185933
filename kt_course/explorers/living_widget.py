"""The widget behind `living_page.attach`; exported pages do without it, and without anywidget."""

import anywidget
import traitlets

from kt_course.explorers.engine_files import joined_modules, style_sheet


class LivingWidget(anywidget.AnyWidget):
    """Sends the weights when the page asks for them, so that no saved notebook holds them."""

    _esm = traitlets.Unicode().tag(sync=True)
    _css = traitlets.Unicode().tag(sync=True)
    given = traitlets.Dict().tag(sync=True)

    def __init__(self, given: dict, weights: list[bytes]):
        super().__init__(
            given=given,
            _esm=f"{joined_modules()}\nexport default {{ render }};\n",
            _css=style_sheet(),
        )
        self.on_msg(lambda widget, content, buffers: self._send_weights(content, weights))

    def _send_weights(self, content: dict, weights: list[bytes]) -> None:
        if content.get("kind") == "weights?":
            self.send({"kind": "weights"}, buffers=weights)


def widget_view(given: dict, weights: list[bytes]) -> dict:
    """The widget's own part of a mimebundle."""
    bundle = LivingWidget(given, weights)._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    return {kind: value for kind, value in (data or {}).items() if kind.startswith("application/")}
