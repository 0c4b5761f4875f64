"""The pages of a scheduler beside its dashboard: those of distributed that show something and do
nothing.

Left out are the proxy, which passes requests on to other machines, what retires workers, and the
stream of events: whoever asks for it, with or without a browser, has the scheduler work for him at
every task until it ends. ``distributed.scheduler.http.routes`` names a module with `routes`.
"""

from __future__ import annotations

from distributed.http import health, statics
from distributed.http.scheduler import info, json, prometheus

routes = [
    route
    for module in (prometheus, info, json, health, statics)
    for route in module.routes
    if route[0] != "eventstream"
]
