"""What a proplet is and can do, in the Semantic Definition Format (SDF, RFC 9880): for tools that know things, not tasks."""

from __future__ import annotations

from typing import Any

from manager.fleet.proplet import Proplet


def description(proplet: Proplet) -> dict[str, Any]:
    """The same for every proplet but for its name; it describes the values, and holds none of them."""
    task = {"sdfRef": "#/sdfThing/Proplet/sdfData/Task"}
    named = {"sdfRef": "#/sdfThing/Proplet/sdfData/TaskId"}
    return {
        "info": {
            "title": f"Propeller Proplet: {proplet.name} ({proplet.id})",
            "version": "1.0",
            "copyright": "",
            "license": "Apache-2.0",
        },
        "namespace": {"proplet": "urn:swashplate:proplet"},
        "defaultNamespace": "proplet",
        "sdfThing": {
            "Proplet": {
                "label": proplet.name,
                "description": "A machine that runs WebAssembly tasks and reports their results",
                "sdfProperty": _properties(),
                "sdfAction": {
                    "start": {"description": "Run a task", "sdfInputData": task},
                    "stop": {"description": "End a task", "sdfInputData": named},
                    "invoke": {
                        "description": "Call a task that is deployed",
                        "sdfInputData": {"sdfRef": "#/sdfThing/Proplet/sdfData/Invocation"},
                        "sdfOutputData": {"sdfRef": "#/sdfThing/Proplet/sdfData/Result"},
                    },
                },
                "sdfEvent": {
                    "alive": {"description": "It reports that it lives", "sdfOutputData": {"type": "string"}},
                    "result": {
                        "description": "A task ended",
                        "sdfOutputData": {"sdfRef": "#/sdfThing/Proplet/sdfData/Result"},
                    },
                    "metrics": {"description": "What it measured of its machine", "sdfOutputData": {"type": "object"}},
                },
                "sdfData": _data(),
            }
        },
    }


def _property(text: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"description": text, "type": kind, "writable": False, "observable": True, **more}


def _properties() -> dict[str, Any]:
    return {
        "id": _property("Its id", "string"),
        "name": _property("Its name", "string"),
        "alive": _property("Does it report?", "boolean"),
        "last_alive_at": _property("When it last reported", "string", sdfType="date-time"),
        "task_count": _property("How many tasks it has been given", "integer", minimum=0),
        "free_slots": _property("How many more it could run now", "integer", minimum=0),
        "cordoned": _property("Is it given nothing new?", "boolean"),
        "draining": _property("Is what it runs moved elsewhere?", "boolean"),
        "metadata": _property("What it says about its machine", "object"),
        "capabilities": _property("What it can do and has at hand", "object"),
    }


def _data() -> dict[str, Any]:
    text, texts = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
    identified = {"id": text}
    return {
        "TaskId": {"type": "object", "properties": identified, "required": ["id"]},
        "Task": {
            "type": "object",
            "properties": {
                **identified,
                "name": text,
                "image_url": text,
                "inputs": texts,
                "env": {"type": "object"},
                "daemon": {"type": "boolean"},
                "latent": {"type": "boolean"},
            },
            "required": ["id", "name"],
        },
        "Invocation": {
            "type": "object",
            "properties": {"task_id": text, "inputs": texts, "env": {"type": "object"}},
            "required": ["task_id"],
        },
        "Result": {
            "type": "object",
            "properties": {"task_id": text, "results": {}, "error": text},
            "required": ["task_id"],
        },
    }
