"""The endpoint of the benchmarks: the same for everybody, and its account is what it did."""

from __future__ import annotations

import asyncio
import base64
import io
import json

import msgspec
from PIL import Image

from bench.seller import PICTURE_TOKENS, REFUSAL_TOKENS, Account, Shop, Terms, mark

TERMS = Terms(answer_after=0.0, overloaded=0.2, truncated=0.1, reset=0.1, refused=0.1)


def told(shop: Shop) -> Account:
    return msgspec.json.decode(shop.account(), type=Account)


async def ask(shop: Shop, row: int) -> tuple[str, str, dict[str, object]]:
    messages = [{"role": "user", "content": f"picture {row}"}]
    ending, answer = await shop.answer(json.dumps({"messages": messages}).encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    return ending, head.decode().split()[1], json.loads(body)


def test_every_client_meets_the_same_faults_whatever_the_order() -> None:
    async def met(rows: list[int]) -> tuple[dict[int, list[tuple[str, str]]], Account]:
        shop = Shop(TERMS)
        endings: dict[int, list[tuple[str, str]]] = {row: [] for row in rows}
        for row in rows:
            ending, status, _ = await ask(shop, row)
            endings[row].append((ending, status))
        return endings, told(shop)

    forwards = [*range(60), *range(60)]
    first, account = asyncio.run(met(forwards))
    second, other = asyncio.run(met(forwards[::-1]))
    assert first == second
    assert (account.pictures, account.refusals) == (other.pictures, other.refusals)
    seen = {one for found in first.values() for one in found}
    assert seen == {("whole", "200"), ("whole", "503"), ("truncated", "200"), ("reset", "200")}


def test_the_account_is_what_was_billed_and_a_picture_is_its_row_s_own() -> None:
    async def bought() -> tuple[Account, int, set[str]]:
        shop, tokens, rows = Shop(TERMS), 0, set()
        for row in [*range(40), *range(40)]:
            _, status, body = await ask(shop, row)
            if status == "503":
                continue
            tokens += msgspec.convert(body["usage"], dict[str, int])["total_tokens"]
            content = msgspec.convert(body["choices"], list[dict[str, object]])[0]["message"]
            text = msgspec.convert(content, dict[str, str])["content"]
            if "base64," not in text:
                continue
            png = base64.b64decode(text.partition("base64,")[2].removesuffix(")"))
            with Image.open(io.BytesIO(png)) as image:
                image.load()
                rows.add(str(image.info["row"]))
            assert mark(f"r{row}") in png
        return told(shop), tokens, rows

    account, tokens, rows = asyncio.run(bought())
    assert account.tokens == tokens
    assert tokens == sum(account.pictures.values()) * PICTURE_TOKENS + (
        sum(account.refusals.values()) * REFUSAL_TOKENS
    )
    assert rows == set(account.pictures)
    assert account.again == sum(account.pictures.values()) - len(account.pictures) > 0


def test_a_quota_admits_its_bucket_and_refuses_what_comes_at_once() -> None:
    async def refused() -> tuple[int, Account]:
        shop = Shop(Terms(rpm=1, burst=3, answer_after=0.0))
        statuses = [(await ask(shop, row))[1] for row in range(5)]
        return statuses.count("429"), told(shop)

    count, account = asyncio.run(refused())
    assert (count, account.too_many, account.admitted) == (2, 2, 3)
