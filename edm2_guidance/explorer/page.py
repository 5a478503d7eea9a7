"""The explorer's page: controls, pictures, curves. The one module that knows NiceGUI; `session.py` computes.

Everything that the browser asks for comes from this process, so that the page works without a network.
"""

import base64
import io
import math
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from nicegui import app, run, ui
from PIL import Image
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from torch import Tensor

from edm2_guidance.explorer import chart
from edm2_guidance.explorer.session import MAX_IMAGES, Curve, Explorer, Moment, Stopped, View
from edm2_guidance.explorer.settings import Settings, fields_of, kinds, settled, spec_of
from edm2_guidance.images.grid import scaled
from edm2_guidance.recipe.intervals import StepInterval
from edm2_guidance.recipe.parts import Schedule
from edm2_guidance.recipe.spec import Spec
from edm2_guidance.sampling.method_grid import tiles

Made = TypeVar("Made")
_TITLE = "Guidance explorer"
_SETTLED = 0.25  # seconds without a change until something is sampled
_START_IMAGES = 16
_MAX_STEPS = 64
_WIDTH, _LEAST_TILE = 768, 96  # pixels of a set of images, and of one of them
_STYLE = """
body { background: #f6f7f9; color: #1d2430 }
body, .q-btn, .q-field { font-family: system-ui, sans-serif }
.nicegui-content { padding: 0 }
main.explorer { display: grid; grid-template-columns: 320px minmax(0, 1fr); gap: 16px; width: 100%; padding: 16px;
  max-width: 1500px; margin: 0 auto; box-sizing: border-box }
.side, .results { gap: 12px; min-width: 0; align-self: start }
.panel { background: white; border: 1px solid #e2e5ea; border-radius: 10px; padding: 14px 16px; width: 100%;
  box-sizing: border-box; gap: 6px; min-width: 0 }
.pair { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 16px; width: 100% }
h1 { font-size: 20px; font-weight: 650; line-height: 1.2; margin: 0 }
h2 { font-size: 14px; font-weight: 650; line-height: 1.3; margin: 0 }
.quiet { color: #5c6675; font-size: 12.5px; font-weight: 400; overflow-wrap: anywhere }
.pair img, .strip img { width: 100%; display: block }
.strip { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(44px, 1fr); gap: 5px; width: 100%;
  overflow-x: auto }
.strip figure { margin: 0; text-align: center }
.strip figure > img + img { margin-top: 4px }
.strip figcaption { font-size: 10.5px; color: #5c6675; white-space: nowrap }
.strip .on figcaption { color: #0072b2; font-weight: 650 }
.command { font-family: ui-monospace, monospace; font-size: 12.5px; background: #f1f3f6; padding: 8px 10px;
  border-radius: 6px; width: 100%; box-sizing: border-box }
.command span { display: inline-block; max-width: 100%; overflow-wrap: anywhere }
.wrong { color: #a4161a; font-weight: 600; overflow-wrap: anywhere }
@media (max-width: 760px) {
  main.explorer { grid-template-columns: minmax(0, 1fr); padding: 8px }
  .pair { gap: 8px }
}
"""


def serve(explorer: Explorer, outdir: Path, host: str, port: int, *, show: bool, started: Callable[[], None]) -> None:
    """Serve the page until the process is told to end. show: whether to open a browser. started: is told."""
    app.on_startup(started)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[host, "localhost"])  # no other site under our address
    app.add_middleware(_OwnPageAlone)
    ui.page("/", title=_TITLE)(lambda: _Page(explorer, outdir).build())
    ui.run(
        host=host, port=port, show=show, reload=False, title=_TITLE, favicon="🧭", tailwind=False,
        show_welcome_message=False,
    )  # fmt: skip


async def _apart(function: Callable[..., Made], *args: Any) -> Made:
    """What it gives, from another thread. `Stopped` if the server ends meanwhile."""
    made: Made | None = await run.io_bound(function, *args)
    if made is None:
        raise Stopped
    return made


class _OwnPageAlone:
    """Middleware: pages of other sites, open in the same browser, ask for nothing here and show nothing of it."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request; web sockets, too, to which browsers let every site connect."""

        async def unframed(message: Any) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Frame-Options"] = "DENY"
            await send(message)

        headers = Headers(scope=scope) if scope["type"] in ("http", "websocket") else {}
        origin, answer = headers.get("origin"), self._app
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            answer = PlainTextResponse("asked by a page of another site", 403)
        await answer(scope, receive, unframed)


class _Slider(ui.slider):  # type: ignore[misc, unused-ignore]
    LOOPBACK = False  # an answer that comes late must not move it back


class _Range(ui.range):  # type: ignore[misc, unused-ignore]
    LOOPBACK = False


class _Choice:
    """The kind of an axis, and its fields, as the catalogue has them."""

    def __init__(self, given: Spec, changed: Callable[[], None]) -> None:
        self.given, self._changed = given, changed
        self._fields: dict[str, Any] = {}
        label = f"{given.axis} schedule" if given.axis == "weight" else given.axis
        self._kind = ui.select(kinds(given), value=given.kind, label=label, on_change=self._chosen)
        self._kind.classes("w-full").props(f"dense aria-label='{label}'").style("width: 100%")
        self._place = ui.column().style("gap: 0; width: 100%; padding-left: 12px")
        self._show_fields()

    def _chosen(self) -> None:
        self._show_fields()
        self._changed()

    def _show_fields(self) -> None:
        self._place.clear()
        self._fields = {}
        with self._place:
            for each in fields_of(self._kind.value, self.given):
                control: Any
                if each.choices:
                    control = ui.select([*each.choices], value=each.text, label=each.name)
                else:
                    control = ui.input(each.name, value=each.text).props("debounce=400")
                control.on_value_change(self._changed)
                self._fields[each.name] = control.props("dense").style("width: 100%").tooltip(each.help)

    def spec(self, w: float | None = None) -> Any:
        """What is chosen. ValueError for fields that it does not take."""
        return spec_of(self._kind.value, self.given, {name: box.value for name, box in self._fields.items()}, w)


class _Page:
    """One tab: its controls, and what they made last."""

    def __init__(self, explorer: Explorer, outdir: Path) -> None:
        self._explorer, self._outdir = explorer, outdir
        self._start = self._settings = Settings.of(explorer.start, _START_IMAGES)
        self._placed = self._start  # those at which the interval was placed: fewer steps hold it less well
        self._view: View | None = None
        self._asked = 0  # changes so far: the last one counts
        self._number = 0  # of the image that is followed
        self._putting = False  # whether a control moves because another one did

    def build(self) -> None:
        """Everything on the page, and its first pictures."""
        ui.add_css(_STYLE)
        with ui.element("main").classes("explorer"):
            with ui.column().classes("side"):
                self._controls()
            with ui.column().classes("results"):
                self._results()
        ui.context.client.on_delete(self._leave)
        self._changed()

    def _leave(self) -> None:
        """The tab was closed."""
        self._asked += 1

    # Controls

    def _controls(self) -> None:
        start = self._start
        with ui.column().classes("panel"):
            ui.html(f"<h1>{_TITLE}</h1>", sanitize=False)
            ui.label(self._explorer.about).classes("quiet")
        if start.weight is not None or start.scale is not None:
            with ui.column().classes("panel"):
                self._guidance(start)
        with ui.column().classes("panel"):
            ui.html("<h2>Sampling</h2>", sanitize=False)
            self._images = self._slider("images", start.num_images, 1, MAX_IMAGES, 1, "of the first seeds")
            fixed = start.schedule.num_steps
            self._steps = self._slider("steps", fixed or start.num_steps, 2, _MAX_STEPS, 1)
            self._sampler = _Choice(start.sampler, self._changed)
            self._schedule = _Choice(start.schedule, self._changed)

    def _guidance(self, start: Settings) -> None:
        ui.html("<h2>Guidance</h2>", sanitize=False)
        if start.weight is not None:
            self._w = self._slider("weight", start.weight.w, 0, max(5, 2 * start.weight.w), 0.05, "1 = off")
        if start.alpha is not None:
            self._alpha = self._slider("blend", start.alpha, 0, 1, 0.05, "0 = by the first guide, 1 = by the second")
        if start.scale is not None:
            self._scale = self._slider("scale", start.scale, 0, max(5, 2 * start.scale), 0.05, "of the classifier")
        self._where = ui.label().classes("quiet")
        value: dict[str, float] = {"min": start.ends.first, "max": start.ends.last}
        self._interval = _Range(min=0, max=len(start.levels()) - 1, step=1, value=value, on_change=self._changed)
        self._interval.props("markers snap aria-label=interval")
        if start.weight is not None:
            self._weight = _Choice(start.weight, self._changed)
            self._rule = _Choice(start.rule, self._changed)

    def _slider(self, name: str, value: float, low: float, high: float, step: float, about: str = "") -> Any:
        """A slider with a box for its number, within the same bounds; these hold the value at the start, too."""
        low, high = min(low, value), max(high, value)

        def settle(typed: float | None) -> float:
            return settled(typed, slider.value, low, high, whole=step == 1)

        with ui.row().style("width: 100%; justify-content: space-between; align-items: baseline; flex-wrap: nowrap"):
            ui.html(f"{name} <span class=quiet>{escape(about)}</span>", sanitize=False)
            number = ui.number(min=low, max=high, step=step, value=value).props(f"dense borderless aria-label='{name}'")
            number.style("width: 72px").props("input-class=text-right")
        slider = _Slider(min=low, max=high, step=step, value=value, on_change=self._changed)
        slider.props(f"aria-label='{name}'")
        number.bind_value(slider, forward=lambda typed: typed if typed == settle(typed) else slider.value)
        for end in ("blur", "keydown.enter"):  # not at each key: 16 begins with 1
            number.on(end, lambda: number.set_value(settle(number.value)), [])
        return slider

    def _read(self) -> Settings:
        """What the controls say. ValueError for what is none."""
        start, weight = self._start, None
        schedule: Schedule = self._schedule.spec()
        if start.weight is not None:
            weight = self._weight.spec(self._w.value)
        if start.weight is not None or start.scale is not None:
            ends = StepInterval(int(self._interval.value["min"]), int(self._interval.value["max"]))
            if ends != self._settings.ends:
                self._placed = self._settings.placed(ends)
        settings = replace(
            self._placed,
            num_images=int(self._images.value),
            sampler=self._sampler.spec(),
            rule=start.rule if weight is None else self._rule.spec(),
            weight=weight,
            alpha=None if start.alpha is None else self._alpha.value,
            scale=None if start.scale is None else self._scale.value,
        )
        return settings.on(schedule, schedule.num_steps or int(self._steps.value))

    def _show_levels(self, settings: Settings) -> None:
        """Put the interval on the levels that there are now."""
        if settings.weight is None and settings.scale is None:
            return
        ends = settings.ends
        self._putting = True
        self._interval.props(f"max={len(settings.levels()) - 1}")
        self._interval.set_value({"min": ends.first, "max": ends.last})
        self._putting = False
        where = "at all noise levels" if settings.interval is None else f"at {settings.sigmas}"
        self._where.set_text(f"interval: {where}, steps {ends.first}-{ends.last}")

    # Results

    def _results(self) -> None:
        with ui.column().classes("panel"):
            with ui.row().style("width: 100%; justify-content: space-between; align-items: center; min-height: 24px"):
                self._cost = ui.label("sampling ...").classes("quiet cost")
                self._spinner = ui.spinner(size="20px")
            self._wrong = ui.label().classes("wrong")
            self._notes = ui.label().classes("quiet")
            with ui.element("div").classes("pair"):
                self._without = self._pictures("unguided")
                self._guided = self._pictures("guided")
            ui.label("Click an image to follow it below.").classes("quiet")
        with ui.column().classes("panel"):
            self._followed = ui.html("<h2>D over the steps</h2>", sanitize=False)
            self._strip = ui.html("", sanitize=False).style("width: 100%")
        with ui.column().classes("panel") as self._chart_panel:
            ui.html("<h2>How far the main network is from its reference</h2>", sanitize=False)
            self._chart = ui.echart({}).style("width: 100%; height: 325px")
        with ui.column().classes("panel"):
            ui.html("<h2>The command line that makes this figure</h2>", sanitize=False)
            self._command = ui.html("", sanitize=False).classes("command")
            with ui.row().style("align-items: center"):
                for text, icon, does in (
                    ("Copy", "content_copy", self._copy),
                    ("Write the figure", "image", self._write),
                ):
                    button = ui.button(text, icon=icon, on_click=does)
                    button.props("dense outline no-caps size=12px padding='4px 12px'")
            self._written = ui.label().classes("quiet written")

    def _pictures(self, name: str) -> Any:
        with ui.column().classes("pictures").style("gap: 4px; min-width: 0"):
            ui.html(f"<h2>{name}</h2>", sanitize=False)
            shown = ui.interactive_image(on_mouse=self._clicked, events=["mousedown"])
        return shown.classes(name).style("width: 100%")

    # Work

    def _changed(self) -> None:
        """What is on its way is not wanted any more; sample once nothing changes any more."""
        if not self._putting:
            self._asked += 1
            ui.timer(_SETTLED, partial(self._work, self._asked), once=True)

    async def _work(self, mine: int) -> None:
        def stop() -> bool:
            return mine != self._asked or not app.is_started

        if stop():
            return
        self._spinner.set_visibility(True)
        with self._telling():
            self._settings = self._read()
            self._show_levels(self._settings)
            view = await _apart(self._explorer.look, self._settings, stop)
            self._show(view)
            await self._follow()
            self._draw(await _apart(self._explorer.curves, view, stop))
        if mine == self._asked:
            self._spinner.set_visibility(False)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Inside, what goes wrong becomes a line on the page, also in functions of the user's own."""
        try:
            yield
        except Stopped:
            pass
        except Exception as error:
            text = " ".join(str(error).split()) or type(error).__name__
            plain = isinstance(error, ValueError | OSError | RuntimeError | ImportError)
            self._wrong.set_text(text if plain else f"{type(error).__name__}: {text}")

    def _show(self, view: View) -> None:
        self._view = view
        self._wrong.set_text("")
        self._notes.set_text("; ".join(view.notes))
        self._cost.set_text(view.cost)
        words = " ".join(f"<span>{escape(shlex.quote(word))}</span>" for word in shlex.split(view.command))
        self._command.set_content(words)
        self._written.set_text("")
        for place, images in ((self._without, view.unguided), (self._guided, view.guided)):
            shown = _mosaic(images)
            self._size = shown.size
            place.set_source(shown)

    async def _follow(self) -> None:
        """Show one of the images over the steps."""
        if self._view is None:
            return
        view = self._view
        self._number = min(self._number, len(view.seeds) - 1)
        moments = await _apart(self._explorer.moments, view, self._number)
        label = "" if view.labels is None else f", class {view.labels[self._number]}"
        seed = f"seed {view.seeds[self._number]}{label}"
        about = "unguided above, guided below; blue where a guide is on"
        text = f"<h2>D over the steps, {seed} <span class=quiet>{about}</span></h2>"
        self._followed.set_content(text)
        self._strip.set_content(f"<div class=strip>{''.join(map(_figure, moments))}</div>")

    async def _clicked(self, event: Any) -> None:
        if self._view is None:
            return
        across, down = _shape(len(self._view.seeds))
        column, row = int(event.image_x / self._size[0] * across), int(event.image_y / self._size[1] * down)
        self._number = min(row, down - 1) * across + min(column, across - 1)
        with self._telling():
            await self._follow()

    def _draw(self, curves: list[Curve]) -> None:
        self._chart_panel.set_visibility(bool(curves))
        self._chart.options.clear()
        self._chart.options.update(chart.options(curves, self._settings))
        self._chart.update()

    def _copy(self) -> None:
        if self._view is not None:
            ui.clipboard.write(self._view.command)
            ui.notify("Copied", position="bottom", timeout=1500)

    async def _write(self) -> None:
        if self._view is None:
            return
        with self._telling():
            self._written.set_text(f"{await _apart(self._explorer.figure, self._view, self._outdir)}")


def _shape(count: int) -> tuple[int, int]:
    """Images across and down."""
    across = math.isqrt(count - 1) + 1
    return across, -(-count // across)


def _mosaic(images: Tensor) -> Image.Image:
    """Images uint8 [N,3,H,W] in one picture, near to a square."""
    across, down = _shape(len(images))
    pictures = [scaled(each, max(_LEAST_TILE, _WIDTH // across)) for each in tiles(images)]
    width, height = pictures[0].size
    whole = Image.new("RGB", (across * width, down * height), "white")
    for number, picture in enumerate(pictures):
        whole.paste(picture, (number % across * width, number // across * height))
    return whole


def _figure(moment: Moment) -> str:
    """One step of the strip, as HTML."""
    pictures = "".join(f"<img src='{_data(each)}' alt='D'>" for each in (moment.without, moment.with_guides))
    on = " class=on" if moment.guided else ""
    return f"<figure{on}>{pictures}<figcaption>&sigma; {moment.sigma:.2g}</figcaption></figure>"


def _data(picture: Image.Image) -> str:
    """A picture as an address."""
    file = io.BytesIO()
    scaled(picture, _LEAST_TILE).save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
