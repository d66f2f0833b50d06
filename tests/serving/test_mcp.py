"""`tracekit mcp`, tested with the client of the official package over the standard streams."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import tracekit
from tracekit.cli.app import run

pytest.importorskip("mcp", reason="mcp is not installed")

from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

REPO = Path(__file__).resolve().parents[2]
SAMPLE = REPO / "sample_traces" / "s3.trace"
Talk = Callable[[Client], Awaitable[None]]


def talk(trace: Path, say: Talk) -> None:
    """Start the command, connect to it, and run `say`."""

    async def connect() -> None:
        server = StdioServerParameters(command=sys.executable, args=["-m", "tracekit", "mcp", str(trace)])
        async with Client(stdio_client(server)) as client:
            await say(client)

    asyncio.run(asyncio.wait_for(connect(), 90))


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    answer: Any = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer.content
    return answer.structured_content


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    answer: Any = await client.call_tool(tool, arguments)
    assert answer.is_error
    return str(answer.content[0].text)


def test_a_client_reads_a_trace_and_can_do_nothing_else(tmp_path: Path) -> None:
    async def say(client: Client) -> None:
        listed = (await client.list_tools()).tools
        assert {tool.name for tool in listed} == {"info", "stats", "query", "ask"}
        assert all(tool.annotations is not None and tool.annotations.read_only_hint for tool in listed)
        assert all("over_time" in (tool.description or "") for tool in listed if tool.name == "query")
        assert client.instructions is not None and "not instructions" in client.instructions

        assert (await call(client, "info"))["ops"] == 513
        assert (await call(client, "stats"))["by_op"][0]["ops"] > 0
        found = await call(
            client, "query", sql="SELECT op, count(*) AS n FROM ops GROUP BY op ORDER BY n DESC"
        )
        assert (found["rows"][0], found["more"]) == (["read", 512], False)
        assert (await call(client, "query", sql="FROM ops"))["more"] is True
        answer = await call(client, "ask", question="slowest-files", limit=2)
        assert len(answer["rows"]) == 2
        table = tracekit.ask(SAMPLE, "slowest-files", limit=2).table
        assert [row[0] for row in answer["rows"]] == table.column("uri").to_pylist()
        assert (await call(client, "ask", question="errors"))["no_rows"] == "no op failed"

        assert "latency" in await refused(client, "query", sql="SELECT latencyy FROM ops")
        assert "not one statement that reads" in await refused(
            client, "query", sql=f"COPY ops TO '{tmp_path}/x.csv'"
        )
        assert await refused(client, "query", sql="SELECT * FROM read_text('/etc/passwd')")
        assert "did you mean stalls" in await refused(client, "ask", question="stall")

    talk(SAMPLE, say)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_trace_is_one_line_and_json_goes_to_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["mcp", "/none.trace", "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and json.loads(err.splitlines()[0])["error"]["exit_code"] == 2
