"""Reads a scrape on stdin with the parser of Prometheus' own Python library, which is strict.

    openmetrics.py            the scrape is OpenMetrics
    openmetrics.py text       the scrape is Prometheus text

Prints a line of JSON: each family's type and how many samples it has.
"""

import json
import sys

from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics

PARSERS = {"text": parser, "openmetrics": openmetrics}

name = sys.argv[1] if len(sys.argv) > 1 else "openmetrics"
families = PARSERS[name].text_string_to_metric_families(sys.stdin.read())
print(json.dumps({family.name: [family.type, len(family.samples)] for family in families}))
