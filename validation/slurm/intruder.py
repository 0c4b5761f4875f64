"""Try to get into a Dask cluster: ``python intruder.py [--user UID] [--keys FOLDER] PORT ...``.

A port is one of this machine, or ADDRESS:PORT. At every one, over plain tcp:// and over tls:// with
keys of its own, or with those in a folder. One line a try: ``refused ADDRESS WHY`` or ``let in
ADDRESS ANSWER``. With ``--user`` (root only) as another user, who also tries to read the files that
``--read`` names. With ``--page PATH``, instead, asks at every port for that page, and sends
something to it: ``METHOD PATH STATUS`` for each.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import os
import sys
from typing import Any

from distributed import Security
from distributed.core import connect

METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")


async def knock(address: str, how: dict[str, Any]) -> Any:
    comm = await connect(address, timeout=5, **how)
    await comm.write({"op": "identity", "reply": True})
    return await asyncio.wait_for(comm.read(), 5)


async def try_it(address: str, how: dict[str, Any]) -> str:
    try:
        answer = await asyncio.wait_for(knock(address, how), 15)
    except (OSError, TimeoutError) as error:
        return f"refused {address} {type(error).__name__}"
    return f"let in {address} {answer}"


async def everywhere(ports: list[str], ways: dict[str, dict[str, Any]]) -> list[str]:
    tries = [
        try_it(f"{protocol}://{port if ':' in port else f'127.0.0.1:{port}'}", how)
        for port in ports
        for protocol, how in ways.items()
    ]
    return await asyncio.gather(*tries)


def ask(port: str, method: str, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
    try:
        body = None if method == "GET" else b'{"workers": [], "n": 1}'
        connection.request(method, path, body, {"Content-Type": "application/json"})
        status: object = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        status = type(error).__name__
    finally:
        connection.close()
    return f"{method} {path} {status}"


async def as_told(options: argparse.Namespace) -> None:
    own = Security.temporary()
    if options.keys:
        certificate, key = f"{options.keys}/certificate.pem", f"{options.keys}/key.pem"
        own = Security(tls_ca_file=certificate, tls_client_cert=certificate, tls_client_key=key)
    plain = Security(require_encryption=False)
    ways = {"tcp": plain, "tls": own}
    how = {name: security.get_connection_args("client") for name, security in ways.items()}
    if options.user is not None:
        await everywhere(["9"], how)  # loads what another user could not
        os.setgroups([])
        os.setgid(options.user)
        os.setuid(options.user)
    for path in options.read:
        try:
            with open(path) as file:
                print("let in", path, file.read())
        except PermissionError:
            print("refused", path)
    for port in options.ports:
        for path in options.page:
            for method in METHODS:
                print(ask(port, method, path))
    if not options.page:
        print("\n".join(await everywhere(options.ports, how)))
    sys.stdout.flush()
    os._exit(0)  # what was begun need not be ended


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--user", type=int)
    parser.add_argument("--keys")
    parser.add_argument("--read", action="append", default=[])
    parser.add_argument("--page", action="append", default=[])
    parser.add_argument("ports", nargs="+")
    sys.exit(asyncio.run(as_told(parser.parse_args())))
