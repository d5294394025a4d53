from __future__ import annotations

import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from music_pulse.errors import PulseError
from serving.docs import serve


def test_it_serves_a_folder_on_loopback_without_listings(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("docs")
    (tmp_path / "sub").mkdir()
    with serve(tmp_path, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            host, port = server.server_address[:2]
            assert host == "127.0.0.1"
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
                assert answer.read() == b"docs"
            for hidden in ("sub/", "../conftest.py", "nothing"):
                with pytest.raises(urllib.error.HTTPError) as caught:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/{hidden}")
                caught.value.close()
        finally:
            server.shutdown()
            thread.join()


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with serve(tmp_path, 0) as server, pytest.raises(PulseError, match="--port"):
        serve(tmp_path, server.server_address[1])
