"""Tables, plots and one self-contained HTML page from measured results."""

from jinja2 import Environment, PackageLoader

TEMPLATES = Environment(loader=PackageLoader("mfd_flower.report", "."), autoescape=True)
