"""Text that the checkpoints of many graphs have in common: the prefix of the zstd frames of short values.

A frame can be decoded only with the prefix that made it. Another text needs another letter in front of the frames.
"""

from __future__ import annotations

from typing import Final

__all__ = ["TYPICAL"]

# The text that is most likely to be repeated stands at the end. The names are those of LangGraph and LangChain, in the
# form of MessagePack: 0xA0 and the length precede a short text, 0xD9 and the length a longer one.
TYPICAL: Final = (
    b"\xaatool_calls\x91\x84\xa4name\xa4args\xa2id\xa4type\xa9tool_call\xb2invalid_tool_calls\x90"
    b"\xbelangchain_core.messages.system\xadSystemMessage\xb9langchain_core.messages.tool\xabToolMessage"
    b"\xactool_call_id\xa6status\xa7success\xa8artifact\xc0\xaemodel_provider\xa6openai\xaamodel_name\xa6gpt-4o"
    b"\xadfinish_reason\xa4stop\xaetoken_usage\xb1completion_tokens\xadprompt_tokens\xactotal_tokens"
    b"\xadusage_metadata\x85\xacinput_tokens\xadoutput_tokens\xactotal_tokens\xb3input_token_details\xb4output_token_details"
    b"\xa9reasoning\xaacache_read\xb2system_fingerprint\xafservice_tier\xa7default\xa8logprobs\xc0"
    b"\xc7\x92\x05\x94\xbdlangchain_core.messages.human\xacHumanMessage\x87\xa7content\xd9"
    b"\xb1additional_kwargs\x80\xb1response_metadata\x80\xa4type\xa5human\xa4name\xc0\xa2id\xd9$"
    b"\xa7example\xc2\xb3model_validate_json"
    b"\xc7\xb4\x05\x94\xbalangchain_core.messages.ai\xa9AIMessage\x8a\xa7content\xd9"
    b"\xb1additional_kwargs\x80\xb1response_metadata\x80\xa4type\xa2ai\xa4name\xc0\xa2id\xd9$"
    b"\xaatool_calls\x90\xb2invalid_tool_calls\x90\xaeusage_metadata\xc0\xb3model_validate_json"
    b"\xafbranch:to:tools\xafbranch:to:model\xafbranch:to:agent\xafbranch:to:reply\xb0__pregel_tasks\xa7__end__"
    b"\x95\xd9$1f0c8b52-6d1e-6c3a-8000-7f2a9c4be015\xa7msgpack\xc5\x01\x9f"
    b"\x87\xa1v\x04\xa2ts\xd9 2026-11-27T12:00:00.000000+00:00\xa2id\xd9$1f0c8b52-6d1e-6c3a-8001-3be0157f2a9c"
    b"\xb0channel_versions\x83\xa9__start__\xcf\x00\x00\x02\xa8messages\xcf\x00\x00\x03\xafbranch:to:model\xcf\x00\x00\x04"
    b"\xadversions_seen\x83\xa9__input__\x80\xa9__start__\x81\xa9__start__\xcf\x00\x00\x02\xa5model\x81\xafbranch:to:model\xcf"
    b"\xafupdated_channels\x92\xa8messages\xafbranch:to:model\xc0\xadpending_sends\x90"
    b"\xa7msgpack\xc4\x84\xa6source\xa5input\xa6source\xa6update\xa6source\xa4fork\xa6source\xa4loop\xa4step\x01"
    b"\xa7parents\x80\xa6run_id\xd9$\xa9langgraph\xbdcounters_since_delta_snapshot"
)
