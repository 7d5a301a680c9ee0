"""
Answers as vendors document them and gateways were seen to send them, each with what it means.

Pictures are shortened to what a decoder of signatures accepts. Streams are not among them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal

from batchgen.records import EncodedImage, ErrorClass, Generation, ReportedUsage

PNG = b"\x89PNG\r\n\x1a\n"
LONGER_PNG = PNG + b"\x00\x00\x00\rIHDR"
JPEG = b"\xff\xd8\xff\xe0\x00\x10"
PNG_URL = "data:image/png;base64,iVBORw0KGgo="


@dataclass(frozen=True, kw_only=True)
class Bad:
    """What an answer without a picture says."""

    kind: ErrorClass
    message: str
    """A part of it."""
    retry_after: float | None = None
    text: str = ""
    finish_reason: str | None = None
    usage: ReportedUsage | None = None
    request_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Example:
    """One answer."""

    body: str
    expected: Generation | Bad
    dialect: str = "chat"
    status: int = 200


def picture(data: bytes = PNG, *, draft: bool = False) -> EncodedImage:
    return EncodedImage(data=data, draft=draft)


def shown(*data: bytes, text: str = "", request_id: str | None = None) -> Generation:
    return Generation(
        images=tuple(map(picture, data)), text=text, finish_reason="stop", request_id=request_id
    )


def said(content: object, **message: object) -> str:
    return json.dumps(
        {"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": content, **message}}]}
    )


def part(**fields: object) -> str:
    return said([{"type": "text", "text": "Here is the generated image:"}, fields])


HERE = "Here is the generated image:"
_NO_LIVE_URL = "https://cdn.example/x.png"
_NATIVE_PARTS = (
    '{"candidates":[{"index":0,"finishReason":"STOP","content":{"role":"model","parts":['
    '{"text":"Considering the composition","thought":true},'
    '{"inlineData":{"mimeType":"image/jpeg","data":"/9j/4AAQAA=="},"thought":true},'
    '{"text":"Here is your image"},'
    '{"inlineData":{"mimeType":"image/jpeg","data":"/9j/4AAQ"},"thoughtSignature":"CsQB"}]}}],'
    '"usageMetadata":{"promptTokenCount":17,"candidatesTokenCount":1306,"thoughtsTokenCount":210,'
    '"totalTokenCount":1533,"promptTokensDetails":[{"modality":"TEXT","tokenCount":17}],'
    '"candidatesTokensDetails":[{"modality":"IMAGE","tokenCount":1290}]},'
    '"modelVersion":"gemini-2.5-flash-image","responseId":"deO6aLeTE4fYvdIPuIm_kQQ"}'
)
_OF_NATIVE = Generation(
    images=(picture(JPEG + b"\x00", draft=True), picture(JPEG)),
    text="Here is your image",
    reasoning="Considering the composition",
    finish_reason="STOP",
    usage=ReportedUsage(prompt_tokens=17, completion_tokens=1516, total_tokens=1533, image_tokens=1290),
    request_id="deO6aLeTE4fYvdIPuIm_kQQ",
)

SHAPES: dict[str, Example] = {
    # https://github.com/QuantumNous/new-api
    "Markdown with a data URL, usage without image tokens": Example(
        body='{"id":"chatcmpl-20251103174627570914749cO7T1Yq5","object":"chat.completion",'
        '"created":1762163196,"model":"gemini-2.5-flash-image-preview","choices":[{"index":0,"message":'
        '{"role":"assistant","content":"Here\'s your nano banana dish in a fancy restaurant with a Gemini'
        ' theme! \\n![image](data:image/png;base64,iVBORw0KGgoAAAANSUhEUg==)"},"finish_reason":"stop"}],'
        '"usage":{"prompt_tokens":16,"completion_tokens":1307,"total_tokens":1323,'
        '"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":'
        '{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,'
        '"rejected_prediction_tokens":0}}}',
        expected=Generation(
            images=(picture(LONGER_PNG),),
            text="Here's your nano banana dish in a fancy restaurant with a Gemini theme!",
            finish_reason="stop",
            usage=ReportedUsage(prompt_tokens=16, completion_tokens=1307, total_tokens=1323),
            request_id="chatcmpl-20251103174627570914749cO7T1Yq5",
        ),
    ),
    "Markdown, the picture alone": Example(body=said(f"![image]({PNG_URL})"), expected=shown(PNG)),
    "Markdown, unmarked drafts before the picture": Example(
        body=said(f"![image](data:image/jpeg;base64,/9j/4AAQ)\n![image]({PNG_URL})"),
        expected=shown(JPEG, PNG),
    ),
    "Markdown, thoughts in reasoning_content": Example(
        body=said(f"![image]({PNG_URL})", reasoning_content="Planning the light."),
        expected=Generation(images=(picture(),), reasoning="Planning the light.", finish_reason="stop"),
    ),
    # https://openrouter.ai/docs/guides/overview/multimodal/image-generation
    "message.images with cost": Example(
        body='{"id":"gen-1764","object":"chat.completion","created":1764000000,'
        '"model":"google/gemini-3-pro-image-preview","provider":"Google AI Studio","choices":[{"index":0,'
        '"finish_reason":"stop","native_finish_reason":"STOP","message":{"role":"assistant",'
        '"content":"I\'ve generated a sunset.","refusal":null,"reasoning":null,"images":[{"type":"image_url",'
        '"index":0,"image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}}]}}],"usage":{"prompt_tokens":10,'
        '"completion_tokens":1290,"total_tokens":1300,"cost":0.0387,"is_byok":false,"prompt_tokens_details":'
        '{"cached_tokens":0,"cache_write_tokens":0,"audio_tokens":0,"video_tokens":0},"cost_details":'
        '{"upstream_inference_cost":0.0387,"upstream_inference_prompt_cost":0.0,'
        '"upstream_inference_completions_cost":0.0387},"completion_tokens_details":{"reasoning_tokens":0,'
        '"image_tokens":1290,"audio_tokens":0}}}',
        expected=Generation(
            images=(picture(),),
            text="I've generated a sunset.",
            finish_reason="STOP",
            usage=ReportedUsage(
                prompt_tokens=10,
                completion_tokens=1290,
                total_tokens=1300,
                image_tokens=1290,
                cost_usd=Decimal("0.0387"),
            ),
            request_id="gen-1764",
        ),
    ),
    "message.images beside null": Example(
        body=said(None, images=[{"type": "image_url", "image_url": {"url": PNG_URL}}]), expected=shown(PNG)
    ),
    "message.images beside an empty text": Example(
        body=said("", images=[{"type": "image_url", "image_url": {"url": PNG_URL}}]), expected=shown(PNG)
    ),
    # https://github.com/BerriAI/litellm
    "message.images, each with index 0, thoughts apart": Example(
        body=said(
            "Done.",
            images=[
                {"type": "image_url", "index": 0, "image_url": {"url": url, "detail": "auto"}}
                for url in ("data:image/jpeg;base64,/9j/4AAQ", PNG_URL)
            ],
            reasoning_content="Planning.",
            thinking_blocks=[{"type": "thinking", "thinking": "Planning.", "signature": "CsQB"}],
            provider_specific_fields={"thought_signatures": ["CsQB"]},
        ),
        expected=Generation(
            images=(picture(JPEG), picture()), text="Done.", reasoning="Planning.", finish_reason="stop"
        ),
    ),
    "message.image of one release": Example(
        body=said("Done.", image={"url": PNG_URL, "detail": "auto"}), expected=shown(PNG, text="Done.")
    ),
    "message.images[].base64": Example(
        body=said("", images=[{"base64": "iVBORw0KGgo="}]), expected=shown(PNG)
    ),
    "message.images[].url": Example(body=said("", images=[{"url": PNG_URL}]), expected=shown(PNG)),
    "message.images of strings": Example(body=said("", images=[PNG_URL]), expected=shown(PNG)),
    # https://github.com/router-for-me/CLIProxyAPI
    "no picture, a native reason in lower case": Example(
        body='{"choices":[{"index":0,"finish_reason":"image_safety","native_finish_reason":"image_safety",'
        '"message":{"role":"assistant","content":null}}]}',
        expected=Bad(kind=ErrorClass.BLOCKED, message="refused", finish_reason="image_safety"),
    ),
    "content parts, image_url": Example(
        body='{"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":['
        '{"type":"text","text":"Here is the generated image:"},'
        '{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}}]}}],'
        '"usage":{"prompt_tokens":123,"completion_tokens":456,"total_tokens":579}}',
        expected=Generation(
            images=(picture(),),
            text=HERE,
            finish_reason="stop",
            usage=ReportedUsage(prompt_tokens=123, completion_tokens=456, total_tokens=579),
        ),
    ),
    "content parts, what stands for a picture is none": Example(
        body=part(type="image_url", image_url={"url": "data:image/png;base64,AAAA"}),
        expected=Bad(kind=ErrorClass.CORRUPT, message="is none", text=HERE, finish_reason="stop"),
    ),
    "content parts, image_url as a string": Example(
        body=part(type="image_url", image_url=PNG_URL), expected=shown(PNG, text=HERE)
    ),
    "content parts, image.base64": Example(
        body=part(type="image", image={"base64": "iVBORw0KGgo=", "mime_type": "image/png"}),
        expected=shown(PNG, text=HERE),
    ),
    "content parts, image.url": Example(
        body=part(type="image", image={"url": PNG_URL}), expected=shown(PNG, text=HERE)
    ),
    "content parts, source": Example(
        body=part(type="image", source={"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}),
        expected=shown(PNG, text=HERE),
    ),
    "content parts, output_image": Example(
        body=part(type="output_image", image_url=PNG_URL), expected=shown(PNG, text=HERE)
    ),
    "content parts, image_generation_call": Example(
        body=part(type="image_generation_call", result="iVBORw0KGgo="), expected=shown(PNG, text=HERE)
    ),
    "content parts, inline_data": Example(
        body=part(inline_data={"mime_type": "image/png", "data": "iVBORw0KGgo="}),
        expected=shown(PNG, text=HERE),
    ),
    "content parts, inlineData with its signature": Example(
        body=part(inlineData={"mimeType": "image/png", "data": "iVBORw0KGgo="}, thoughtSignature="CsQB"),
        expected=shown(PNG, text=HERE),
    ),
    "content parts, inlineData that is a thought": Example(
        body=said(
            [
                {"inlineData": {"mimeType": "image/jpeg", "data": "/9j/4AAQ"}, "thought": True},
                {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}},
            ]
        ),
        expected=Generation(images=(picture(JPEG, draft=True), picture()), finish_reason="stop"),
    ),
    "content parts, output_text with Markdown in it": Example(
        body=said([{"type": "output_text", "text": f"{HERE}\n![image]({PNG_URL})"}]),
        expected=shown(PNG, text=HERE),
    ),
    "one bare data URL": Example(body=said(PNG_URL), expected=shown(PNG)),
    "bare base64": Example(body=said("/9j/4AAQ" * 125), expected=shown(JPEG * 125)),
    "bare base64 too short to be told from a word": Example(
        body=said("iVBORw0KGgo="),
        expected=Bad(
            kind=ErrorClass.NO_IMAGE,
            message="without a picture",
            text="iVBORw0KGgo=",
            finish_reason="stop",
        ),
    ),
    "a Markdown link": Example(
        body=said(f"![image]({_NO_LIVE_URL})"),
        expected=Generation(images=(EncodedImage(url=_NO_LIVE_URL),), finish_reason="stop"),
    ),
    "a bare link": Example(
        body=said(_NO_LIVE_URL),
        expected=Generation(images=(EncodedImage(url=_NO_LIVE_URL),), finish_reason="stop"),
    ),
    "message.images with a link": Example(
        body=said("", images=[{"type": "image_url", "image_url": {"url": _NO_LIVE_URL}}]),
        expected=Generation(images=(EncodedImage(url=_NO_LIVE_URL),), finish_reason="stop"),
    ),
    "the Images API's body on chat": Example(
        body='{"created":1,"data":[{"b64_json":"iVBORw0KGgo=","revised_prompt":"A wide sunset."}]}',
        expected=Generation(images=(picture(),), text="A wide sunset."),
    ),
    "the Images API's body on chat, a link": Example(
        body=f'{{"created":1,"data":[{{"url":"{_NO_LIVE_URL}"}}]}}',
        expected=Generation(images=(EncodedImage(url=_NO_LIVE_URL),)),
    ),
    # https://ai.google.dev/api/generate-content
    "Gemini's own body on chat": Example(body=_NATIVE_PARTS, expected=_OF_NATIVE),
    "Gemini's own body in snake case": Example(
        body='{"candidates":[{"finishReason":"STOP","content":{"parts":['
        '{"inline_data":{"mime_type":"image/png","data":"iVBORw0KGgo="}}]}}]}',
        expected=Generation(images=(picture(),), finish_reason="STOP"),
    ),
    "Gemini's own body, a blocked prompt without candidates": Example(
        body='{"promptFeedback":{"blockReason":"PROHIBITED_CONTENT"},"usageMetadata":{"promptTokenCount":7,'
        '"totalTokenCount":7}}',
        expected=Bad(
            kind=ErrorClass.BLOCKED,
            message="refused",
            finish_reason="PROHIBITED_CONTENT",
            usage=ReportedUsage(prompt_tokens=7, total_tokens=7),
        ),
    ),
    "Gemini's own body, a blocked prompt and null candidates": Example(
        body='{"promptFeedback":{"blockReason":"PROHIBITED_CONTENT"},"candidates":null}',
        expected=Bad(kind=ErrorClass.BLOCKED, message="refused", finish_reason="PROHIBITED_CONTENT"),
    ),
    "extra_content beside the picture": Example(
        body=said(
            f"![image]({PNG_URL})",
            extra_content={"google": {"thought_signature": "CsQB"}},
            tool_calls=None,
        ),
        expected=shown(PNG),
    ),
    "extra_content is where no picture is looked for": Example(
        body=said("Done.", extra_content={"google": {"code_execution": [{"image": PNG_URL}]}}),
        expected=Bad(
            kind=ErrorClass.NO_IMAGE, message="without a picture", text="Done.", finish_reason="stop"
        ),
    ),
    "words alone": Example(
        body=said("I can't draw that, but here is a description."),
        expected=Bad(
            kind=ErrorClass.NO_IMAGE,
            message="(finish reason stop): I can't draw that",
            text="I can't draw that, but here is a description.",
            finish_reason="stop",
        ),
    ),
    # https://github.com/songquanpeng/one-api
    "nothing at all": Example(
        body=said(""),
        expected=Bad(kind=ErrorClass.NO_IMAGE, message="without a picture", finish_reason="stop"),
    ),
    # https://platform.openai.com/docs/api-reference/images
    "Images API": Example(
        dialect="images",
        body='{"created":1,"data":[{"b64_json":"iVBORw0KGgo="}],"usage":{"total_tokens":4200,'
        '"input_tokens":200,"output_tokens":4000,"input_tokens_details":{"text_tokens":150,"image_tokens":50},'
        '"output_tokens_details":{"text_tokens":0,"image_tokens":4000}}}',
        expected=Generation(
            images=(picture(),),
            usage=ReportedUsage(
                prompt_tokens=200,
                completion_tokens=4000,
                total_tokens=4200,
                image_tokens=4000,
                input_image_tokens=50,
            ),
        ),
    ),
    "Images API, output that is not split": Example(
        dialect="images",
        body='{"created":1,"data":[{"b64_json":"iVBORw0KGgo="}],"usage":{"total_tokens":4200,'
        '"input_tokens":200,"output_tokens":4000}}',
        expected=Generation(
            images=(picture(),),
            usage=ReportedUsage(
                prompt_tokens=200, completion_tokens=4000, total_tokens=4200, image_tokens=4000
            ),
        ),
    ),
    "Images API, what stands for a picture is none": Example(
        dialect="images",
        body='{"created":1,"data":[{"b64_json":"AAAA"}],"usage":{"total_tokens":4200,"input_tokens":200,'
        '"output_tokens":4000}}',
        expected=Bad(
            kind=ErrorClass.CORRUPT,
            message="is none",
            usage=ReportedUsage(prompt_tokens=200, completion_tokens=4000, total_tokens=4200),
        ),
    ),
}

# How a finish without a picture is understood: https://ai.google.dev/api/generate-content#FinishReason
_FINISHES = {
    ErrorClass.BLOCKED: (
        "SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION",
    ),
    ErrorClass.LENGTH: ("length", "MAX_TOKENS"),
    ErrorClass.TRANSIENT: ("error",),
    ErrorClass.NO_IMAGE: (
        "stop", "content_filter", "tool_calls", "STOP", "LANGUAGE", "OTHER",
        "MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS",
        "IMAGE_OTHER", "NO_IMAGE", "FINISH_REASON_UNSPECIFIED",
    ),
}  # fmt: skip


def _finished(reason: str, place: str) -> str:
    ends = {"finish_reason": "content_filter", place: reason}
    return json.dumps({"choices": [{"index": 0, **ends, "message": {"role": "assistant", "content": None}}]})


FINISHES: dict[str, Example] = {
    f"{place} {reason}": Example(
        body=_finished(reason, place), expected=Bad(kind=kind, message=reason, finish_reason=reason)
    )
    for kind, reasons in _FINISHES.items()
    for reason in reasons
    for place in ("finish_reason", "native_finish_reason")
} | {
    "finish_reason null": Example(
        body='{"choices":[{"index":0,"finish_reason":null,"message":{"content":null}}]}',
        expected=Bad(kind=ErrorClass.NO_IMAGE, message="without a picture"),
    ),
    "a picture with an unusual finish": Example(
        body=said(f"![image]({PNG_URL})").replace('"stop"', '"content_filter"'),
        expected=Generation(images=(picture(),), finish_reason="content_filter"),
    ),
}

_QUOTA = (
    "You exceeded your current quota, please check your plan and billing details. For more information on"
    " this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits."
)

ERRORS: dict[str, Example] = {
    # https://ai.google.dev/gemini-api/docs/openai
    "compat: no pictures on chat": Example(
        status=400,
        body='[{"error":{"code":400,"message":"Image generation is not yet supported on the chat.completions'
        ' endpoint for this model. Please use the standard client.images.generate method",'
        '"status":"INVALID_ARGUMENT"}}]',
        expected=Bad(kind=ErrorClass.ENDPOINT_INCAPABLE, message="client.images.generate method; "),
    ),
    "compat: a picture that it cannot write down": Example(
        status=400,
        body='[{"error":{"code":400,"message":"Unhandled generated data mime type: image/jpeg",'
        '"status":"INVALID_ARGUMENT"}}]',
        expected=Bad(kind=ErrorClass.ENDPOINT_INCAPABLE, message="mime type: image/jpeg; "),
    ),
    "OpenAI's shape": Example(
        status=403,
        body='{"error":{"message":"User quota is not enough (request id: 20251211)","type":"new_api_error",'
        '"param":"","code":"insufficient_user_quota"}}',
        expected=Bad(kind=ErrorClass.CREDITS, message="User quota is not enough", request_id="20251211"),
    ),
    "Google's shape, a day's quota with a delay of seconds": Example(
        status=429,
        body=f'{{"error":{{"code":429,"message":"{_QUOTA}","status":"RESOURCE_EXHAUSTED","details":['
        '{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaMetric":'
        '"generativelanguage.googleapis.com/generate_content_free_tier_requests","quotaId":'
        '"GenerateRequestsPerDayPerProjectPerModel-FreeTier","quotaDimensions":{"location":"global",'
        '"model":"gemini-2.5-flash"},"quotaValue":"250"}]},'
        '{"@type":"type.googleapis.com/google.rpc.Help","links":[{"description":"Learn more about Gemini API'
        ' quotas","url":"https://ai.google.dev/gemini-api/docs/rate-limits"}]},'
        '{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"22s"}]}}',
        expected=Bad(kind=ErrorClass.DAILY_QUOTA, message="You exceeded your current quota"),
    ),
    "Google's shape, a minute's quota with a delay in fractions": Example(
        status=429,
        body=f'{{"error":{{"code":429,"message":"{_QUOTA}","status":"RESOURCE_EXHAUSTED","details":['
        '{"violations":[{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel"}]},'
        '{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"600.5s"}]}}',
        expected=Bad(kind=ErrorClass.RATE, message="You exceeded", retry_after=600.5),
    ),
    "Google's shape, the quota in the metadata": Example(
        status=429,
        body=f'{{"error":{{"code":429,"message":"{_QUOTA}","status":"RESOURCE_EXHAUSTED","details":['
        '{"reason":"RATE_LIMIT_EXCEEDED","metadata":{"quota_limit":'
        '"GenerateContentRequestsPerDayPerProjectPerModel","quota_limit_value":"1500"}}]}}',
        expected=Bad(kind=ErrorClass.DAILY_QUOTA, message="You exceeded"),
    ),
    "Google's shape in an array": Example(
        status=400,
        body='[{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.",'
        '"status":"INVALID_ARGUMENT"}}]',
        expected=Bad(kind=ErrorClass.AUTH, message="API key not valid."),
    ),
    # https://openrouter.ai/docs/api/reference/errors-and-debugging
    "OpenRouter's shape inside a 200": Example(
        body='{"error":{"code":502,"message":"Provider returned error","metadata":{"provider_name":'
        '"Google AI Studio","raw":"{\\"error\\":{\\"code\\":503,\\"status\\":\\"UNAVAILABLE\\"}}"}}}',
        expected=Bad(kind=ErrorClass.TRANSIENT, message="Provider returned error"),
    ),
    "one-api's shape inside a 200": Example(
        body='{"error":{"message":"No candidates returned","type":"server_error","param":"","code":500}}',
        expected=Bad(kind=ErrorClass.TRANSIENT, message="No candidates returned"),
    ),
    "an error that is a string": Example(
        status=402,
        body='{"error":"Insufficient funds…"}',
        expected=Bad(kind=ErrorClass.CREDITS, message="Insufficient funds…"),
    ),
    "a message alone": Example(
        status=400,
        body='{"message":"Unknown size"}',
        expected=Bad(kind=ErrorClass.BAD_REQUEST, message="Unknown size"),
    ),
    "a detail alone": Example(
        status=422,
        body='{"detail":"Unknown size"}',
        expected=Bad(kind=ErrorClass.BAD_REQUEST, message="Unknown size"),
    ),
    "a code and a msg": Example(
        body='{"code":401,"msg":"Invalid token"}',
        expected=Bad(kind=ErrorClass.AUTH, message="Invalid token"),
    ),
    "a code as the error": Example(
        status=429,
        body='{"error":"RATE_LIMITED","message":"Slow down","statusCode":429}',
        expected=Bad(kind=ErrorClass.RATE, message="Slow down"),
    ),
    "HTML": Example(
        status=502,
        body="<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway"
        "</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n",
        expected=Bad(kind=ErrorClass.TRANSIENT, message="502 Bad Gateway"),
    ),
    "HTML of a request that is too large": Example(
        status=413,
        body="<html><h1>413 Request Entity Too Large</h1></html>",
        expected=Bad(kind=ErrorClass.BAD_REQUEST, message="413 Request Entity Too Large"),
    ),
    "an empty body": Example(
        status=524, body="", expected=Bad(kind=ErrorClass.TRANSIENT, message="HTTP 524")
    ),
    "an upstream's JSON in the message": Example(
        status=500,
        body=json.dumps(
            {
                "error": {
                    "message": 'upstream: {"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":'
                    '[{"violations":[{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel"}]},'
                    '{"retryDelay":"7s"}]}}',
                    "type": "upstream_error",
                }
            }
        ),
        expected=Bad(kind=ErrorClass.RATE, message="upstream", retry_after=7),
    ),
    "an upstream's JSON in metadata.raw, a day's quota": Example(
        status=429,
        body=json.dumps(
            {
                "error": {
                    "code": 429,
                    "message": "Provider returned error",
                    "metadata": {
                        "raw": '{"error":{"details":[{"violations":[{"quotaId":"RequestsPerDay"}]}]}}'
                    },
                }
            }
        ),
        expected=Bad(kind=ErrorClass.DAILY_QUOTA, message="Provider returned error"),
    ),
    # https://platform.openai.com/docs/guides/error-codes
    "Images API: refused": Example(
        dialect="images",
        status=400,
        body='{"error":{"message":"Your request was rejected by the safety system. If you believe this is an'
        " error, contact us at help.openai.com and include the request ID b68e1d8f-31a3."
        ' safety_violations=[sexual].","type":"image_generation_user_error","param":null,'
        '"code":"moderation_blocked"}}',
        expected=Bad(
            kind=ErrorClass.BLOCKED, message="safety_violations=[sexual]", request_id="b68e1d8f-31a3"
        ),
    ),
    "Images API: a parameter that it does not know": Example(
        dialect="images",
        status=400,
        body='{"error":{"message":"Unknown parameter: \'response_format\'.","type":"invalid_request_error",'
        '"param":"response_format","code":"unknown_parameter"}}',
        expected=Bad(kind=ErrorClass.BAD_REQUEST, message="Unknown parameter: 'response_format'."),
    ),
}

EXAMPLES = SHAPES | FINISHES | ERRORS
