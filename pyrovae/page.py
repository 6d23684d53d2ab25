"""A diagnosis as one HTML page, with its figures inside."""

import base64
import io
import math
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from pyrovae.section import Number, Section

__all__ = ["page"]


def page(title: str, sections: Sequence[Section]) -> str:
    """The text of a self-contained page, the last section, the verdict, first.

    Args:
        title: of the page.
        sections: as `diagnosis.diagnose` gives them.

    Example:
        >>> text = page("A model", [Section("Verdict", "Is it <any> good?", sentences=["No fault found."])])
        >>> "Is it &lt;any&gt; good?" in text
        True
    """
    environment = Environment(loader=PackageLoader("pyrovae", ""), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"shown": _shown, "encoded": _encoded}
    *others, verdict = sections
    return environment.get_template("page.html.j2").render(title=title, sections=[verdict, *others])


def _shown(number: Number) -> str:
    """The number, to the second digit of its standard error if it has one."""
    value, error = number.value, number.std_error
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return "unknown"
    if error is None or not error > 0 or not math.isfinite(error):
        return f"{value:.4g}"
    digits = max(1 - math.floor(math.log10(error)), 0)
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _encoded(figure: Figure) -> str:
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return base64.b64encode(image.getvalue()).decode()
