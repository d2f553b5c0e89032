"""Sanctum in a browser: who may open it, and that a real browser shows a light and takes a key."""

import asyncio
import base64
import json
import shutil
import socket
import struct
import subprocess
import sys
import time
import zlib
from contextlib import contextmanager, suppress

import psutil
import pyte
import pytest

from esper.karn.sanctum.served.options import ServeError, ServeOptions, is_local, token_from
from esper.karn.text.palette import DARK

aiohttp = pytest.importorskip("aiohttp", reason="comes with the extra `serve`")
pytest.importorskip("textual_serve", reason="comes with the extra `serve`")
from esper.karn.sanctum.served.pages import size_of  # noqa: E402  (it needs aiohttp)

TOKEN = "a-long-secret"


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def _served(run, *more, config):
    port = _free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", "from esper.cli import sanctum_main; sanctum_main()", "serve"),
            *(str(run), "--run-dir", str(run.parent), "--port", str(port), *more),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "XDG_CONFIG_HOME": str(config)},
    )
    try:
        line = process.stdout.readline()
        assert "Sanctum is at http://" in line
        yield port, line.split("token=")[1].split()[0]
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.53", "::1"])
def test_this_machine_needs_no_token(host):
    assert is_local(host)
    assert ServeOptions(host=host).token is None


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "example.org"])
def test_another_address_needs_a_token_and_says_so(host):
    with pytest.raises(ServeError, match="give --token SECRET") as caught:
        ServeOptions(host=host)
    assert "\n" not in str(caught.value)
    assert ServeOptions(host=host, token=TOKEN).host == host


def test_a_token_that_is_guessed_at_once_is_none():
    with pytest.raises(ServeError, match="at least 8 characters"):
        ServeOptions(host="0.0.0.0", token="1234")


@pytest.mark.parametrize("port", [0, -1, 65_536])
def test_a_port_that_cannot_be_is_refused(port):
    with pytest.raises(ServeError, match="must be from 1 to 65535"):
        ServeOptions(port=port)


async def _get(session, port, path="/", **headers):
    async with session.get(f"http://127.0.0.1:{port}{path}", headers=headers) as answer:
        return answer.status, await answer.text()


async def test_only_this_machine_under_its_own_name_and_no_other_site(finished_run, tmp_path):
    with _served(finished_run, config=tmp_path) as (port, token):
        jar = aiohttp.CookieJar(unsafe=True)  # for an address without a name
        async with aiohttp.ClientSession(cookie_jar=jar) as session:
            assert (await _get(session, port))[0] == 403  # another user of this machine
            status, page = await _get(session, port, f"/?token={token}")
            assert status == 200
            assert token not in str(list(jar)), "the cookie is a session, not the token"
            for word in ("googleapis", "https://", "//cdn"):
                assert word not in page
            assert (await _get(session, port, Host="evil.example"))[0] == 403
            assert (await _get(session, port, "/ws", Origin="http://evil.example"))[0] == 403


async def test_a_token_is_required_for_every_page(finished_run, tmp_path):
    with _served(finished_run, "--token", TOKEN, config=tmp_path) as (port, _):
        jar = aiohttp.CookieJar(unsafe=True)  # for an address without a name
        async with aiohttp.ClientSession(cookie_jar=jar) as session:
            for path in ("/", "/ws", "/static/js/textual.js", "/?token=wrong-wrong"):
                assert (await _get(session, port, path))[0] == 403
            assert (await _get(session, port, f"/?token={TOKEN}"))[0] == 200
            assert (await _get(session, port))[0] == 200  # the browser has been given a cookie


def _cockpits_of(run):
    """Return the processes that show a run to a page."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "esper.karn.sanctum.served.cockpit_main" in line and str(run.parent) in line:
            found.append(process)
    return found


async def _until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.05)


async def _read_to_the_end(page):
    while (await page.receive(timeout=30)).type is aiohttp.WSMsgType.BINARY:
        pass


async def test_messages_sizes_and_pages_are_bounded_and_nothing_is_left(finished_run, tmp_path):
    with _served(finished_run, config=tmp_path) as (port, token):
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(cookie_jar=jar) as session:
            async with session.get(f"http://127.0.0.1:{port}/?token={token}") as answer:
                policy = answer.headers["Content-Security-Policy"]
                assert "frame-ancestors 'none'" in policy
            address = f"http://127.0.0.1:{port}/ws"
            for message in ('{"a": 1}', '["resize", {"width": "wide"}]', "[" * 9):
                async with session.ws_connect(address) as page:
                    await page.send_str(message)
                    await _read_to_the_end(page)
                    assert page.close_code in (1007, 1008)
            async with session.ws_connect(address) as page:
                with suppress(ConnectionError):  # the server closes while this is still being sent,
                    await page.send_str("x" * 3_000_000)
                await _read_to_the_end(page)
                # and TCP may then drop the close frame: without one aiohttp gives 1006.
                assert page.close_code in (1006, 1009)
            pages = [await session.ws_connect(address) for _ in range(9)]
            await pages[0].send_json(["resize", {"width": 5_000, "height": 5_000}])
            assert (await pages[8].receive(timeout=30)).type is aiohttp.WSMsgType.CLOSE
            await _until(lambda: len(_cockpits_of(finished_run)) == 8)
            for page in pages:
                await page.close()
            await _until(lambda: not _cockpits_of(finished_run))


def test_the_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("SANCTUM_TOKEN", "from-the-environment")
    assert token_from(None, tmp_path / "token") == TOKEN
    monkeypatch.setenv("SANCTUM_TOKEN", "from-the-environment")
    assert token_from(None, None) == "from-the-environment"
    assert token_from(None, None) is None  # processes started from here do not inherit it
    assert token_from(TOKEN, None) == TOKEN
    with pytest.raises(ServeError, match="give one of them"):
        token_from(TOKEN, tmp_path / "token")
    with pytest.raises(ServeError, match=r"nowhere: No such file or directory$"):
        token_from(None, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("asked", "size"), [((80, 24), (80, 24)), ((5_000, 5_000), (500, 200)), ((-3, 0), (20, 5))]
)
def test_a_page_gets_a_size_within_bounds(asked, size):
    assert size_of(*asked) == size


def test_a_port_that_is_taken_is_one_sentence(finished_run, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = subprocess.run(
            [
                *(sys.executable, "-c", "from esper.cli import sanctum_main; sanctum_main()"),
                *("serve", str(finished_run), "--host", "127.0.0.1"),
                *("--port", str(taken.getsockname()[1])),
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert found.returncode == 2
    assert found.stderr.startswith("sanctum serve: cannot serve at 127.0.0.1 port ")
    assert "Traceback" not in found.stderr


class Browser:
    """A headless Chromium, driven by the DevTools protocol."""

    def __init__(self, socket):
        self._socket = socket
        self._number = 0
        # What the page's web socket received, on a terminal at least as large as the page's: a
        # text may come in parts, each where its cells changed.
        self.screen = pyte.Screen(400, 150)
        self._terminal = pyte.ByteStream(self.screen)
        self.asked = []  # addresses that the page loaded from

    async def call(self, method, **parameters):
        """Call a method and return its result, taking note of events on the way."""
        self._number += 1
        number = self._number
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = json.loads((await self._socket.receive(timeout=30)).data)
            self._note(message)
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def _note(self, message):
        parameters = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.asked.append(parameters["request"]["url"])
        elif message.get("method") == "Network.webSocketFrameReceived":
            frame = parameters["response"]
            if frame["opcode"] == 2:
                self._terminal.feed(base64.b64decode(frame["payloadData"]))

    def shows(self, text):
        """Return whether a text is on the screen."""
        return any(text in line for line in self.screen.display)

    async def until_it_shows(self, text, seconds=30):
        """Wait until a text came from the cockpit."""
        deadline = time.monotonic() + seconds
        while not self.shows(text):
            assert time.monotonic() < deadline, "\n".join(self.screen.display)
            await self.call("Runtime.evaluate", expression="1")
            await asyncio.sleep(0.05)

    async def press(self, key, **more):
        """Press a key."""
        code = {"Escape": 27}.get(key, 0)
        for kind in ("keyDown", "keyUp"):
            await self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more
            )

    async def picture(self):
        """Return what is seen, as rows of bytes, three a pixel."""
        data = (await self.call("Page.captureScreenshot", format="png"))["data"]
        return _pixels(base64.b64decode(data))


def _pixels(png):
    """Decode a PNG of eight bits a channel, as Chromium writes them."""
    chunks, place = {}, 8
    while place < len(png):
        (length,) = struct.unpack_from(">I", png, place)
        kind = png[place + 4 : place + 8]
        chunks[kind] = chunks.get(kind, b"") + png[place + 8 : place + 8 + length]
        place += 12 + length
    width, height, depth, colour = struct.unpack_from(">IIBB", chunks[b"IHDR"])
    assert depth == 8
    size = {2: 3, 6: 4}[colour]
    raw = zlib.decompress(chunks[b"IDAT"])
    rows, before = [], bytearray(width * size)
    for y in range(height):
        start = y * (width * size + 1)
        row = bytearray(raw[start + 1 : start + 1 + width * size])
        for x in range(len(row)):
            left = row[x - size] if x >= size else 0
            corner = before[x - size] if x >= size else 0
            row[x] = (row[x] + _predicted(raw[start], left, before[x], corner)) & 255
        rows.append(bytes(b for i, b in enumerate(row) if i % size < 3))
        before = row
    return rows


def _predicted(kind, left, above, corner):
    if kind == 4:
        guess = left + above - corner
        return min((left, above, corner), key=lambda value: abs(guess - value))
    return (0, left, above, (left + above) // 2)[kind]


def _count(rows, colour):
    wanted = bytes.fromhex(colour.removeprefix("#"))
    return sum(row[i : i + 3] == wanted for row in rows for i in range(0, len(row), 3))


@pytest.fixture
async def browser(tmp_path):
    """Return a headless browser; skips where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no chromium on this machine")
    process = subprocess.Popen(
        [
            *(program, "--headless=new", "--no-sandbox", "--remote-debugging-port=0"),
            *("--window-size=1300,800", f"--user-data-dir={tmp_path / 'browser'}", "about:blank"),
            "--enable-unsafe-swiftshader",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = ""
        while "DevTools listening on" not in line:
            line = process.stderr.readline()
            assert line, "the browser did not start"
        port = line.split("127.0.0.1:")[1].split("/")[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                (page,) = [one for one in await answer.json() if one["type"] == "page"]
            async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as found:
                yield Browser(found)
    finally:
        process.kill()
        process.wait(timeout=20)


async def test_a_browser_shows_a_light_and_takes_a_key(finished_run, tmp_path, browser):
    with _served(finished_run, config=tmp_path) as (port, token):
        await browser.call("Network.enable")
        await browser.call("Page.enable")
        await browser.call("Page.navigate", url=f"http://localhost:{port}/?token={token}")
        await browser.until_it_shows("what to do next")  # the run has ended
        await browser.press("Escape")
        await browser.until_it_shows("first: op Inf in logits")
        assert browser.shows("●")
        deadline = time.monotonic() + 30
        while _count(await browser.picture(), DARK.critical) < 1000:  # the master status is filled
            assert time.monotonic() < deadline, "nothing red was seen"
        assert not browser.shows("Show this help")
        await browser.press("?", text="?")
        await browser.until_it_shows("Show this help")
        assert browser.asked
        for address in browser.asked:
            assert address.startswith((f"http://localhost:{port}/", "data:", "blob:"))
