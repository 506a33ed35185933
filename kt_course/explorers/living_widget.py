"""The widget behind `living_page.attach`; exported pages do without it, and without anywidget."""

from uuid import uuid4

import anywidget
import traitlets

from kt_course.explorers.engine_files import ENGINE, joined_modules, style_sheet


class LivingWidget(anywidget.AnyWidget):
    """Sends engine and weights when the page asks, so that no saved notebook holds them."""

    _esm = ENGINE.joinpath("kt_start.js").read_text(encoding="utf-8")
    _css = style_sheet()
    given = traitlets.Dict().tag(sync=True)

    def __init__(self, given: dict, weights: list[bytes]):
        id = uuid4().hex
        super().__init__(model_id=id, given=given | {"id": id})
        self.on_msg(lambda widget, content, buffers: self._send_parts(content, weights))

    def _send_parts(self, content: dict, weights: list[bytes]) -> None:
        if content.get("kind") == "parts?":
            engine = f"{joined_modules()}\nexport {{ mount }};\n"
            self.send({"kind": "parts", "engine": engine}, buffers=weights)


def widget_view(given: dict, weights: list[bytes]) -> dict:
    """The widget's own part of a mimebundle."""
    bundle = LivingWidget(given, weights)._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    return {kind: value for kind, value in (data or {}).items() if kind.startswith("application/")}
