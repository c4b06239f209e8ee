"""Writes chat.json: chats rendered by transformers, for templates of each family.

    pip install transformers jinja2 && python make_chat.py

The templates use the constructs of the families they are named after; the snippets try one construct
each. The time of the chat is NOW.
"""

import datetime
import json

import transformers.utils.chat_template_utils as chat

NOW = datetime.datetime(2026, 3, 1, 9, 5, 7)


class Frozen(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


chat.datetime = Frozen

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
LLAMA3_TOOLS = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- The system message first, so that the tools can follow it. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {{- "You may call these functions:\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
MIXTRAL = """{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('After the optional system message, roles must alternate') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.first and system_message is defined %}
            {{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- ' [INST] ' + message['content'] + ' [/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token}}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported!') }}
    {%- endif %}
{%- endfor %}
"""
QWEN2 = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are a helpful assistant.' }}
    {%- endif %}
    {{- "\\n\\n# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
QWEN3 = """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or (not loop.last and reasoning_content)) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '\\n<tool_call>\\n{"name": "' + tool_call.name + '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
OLMOE = (
    "{{ bos_token }}{% for message in messages %}\n{% if message['role'] == 'system' %}\n"
    "{{ '<|system|>\n' + message['content'] }}\n{% elif message['role'] == 'user' %}\n"
    "{{ '<|user|>\n' + message['content'] }}\n{% elif message['role'] == 'assistant' %}\n"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
SMOLLM3 = """{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}
{%- set today = strftime_now("%d %B %Y") -%}
<|im_start|>system
Today Date: {{ today }}
Reasoning Mode: {{ "/think" if enable_thinking else "/no_think" }}
<|im_end|>
{%- for message in messages -%}
    {%- if message.role == "assistant" %}
        {%- generation -%}
        {{ "<|im_start|>assistant\\n" + message.content.lstrip("\\n") + "<|im_end|>\\n" }}
        {%- endgeneration -%}
    {%- else -%}
        {{ "<|im_start|>" + message.role + "\\n"  + message.content + "<|im_end|>\\n" }}
    {%- endif -%}
{%- endfor %}
{%- if add_generation_prompt %}
{{ "<|im_start|>assistant\\n" }}
{%- endif -%}
"""
SNIPPETS = {
    "trim and lstrip": "a\n  {% if true %}\n  b\n    {% endif %}\n  c\n   {# note #}\n d {%+ if true %}e{% endif +%}\n f\n",
    "generation": "  {% generation %}\n x {{ messages[0].content }}\n  {%- endgeneration %}\n tail {{ '{% generation %}' }}",
    "tojson": "{{ x|tojson }}|{{ x|tojson(indent=2) }}|{{ x|tojson(indent=0) }}|{{ x|tojson(sort_keys=true) }}|"
    "{{ x|tojson(ensure_ascii=true) }}|{{ x|tojson(separators=(',', ':')) }}|{{ []|tojson(indent=3) }}|{{ {}|tojson(indent=3) }}",
    "python printing": "{{ true }} {{ false }} {{ none }} {{ 1.0 }} {{ 3 }} {{ [1, 'a', none, true] }} {{ {'k': 'v', 'n': 2.5} }} {{ (1, 2) }}",
    "concatenation": "{{ 'a' ~ 1 ~ true ~ none ~ 2.5 }} {{ 'ab' * 3 }} {{ [1] + [2] }} {{ 7 // 2 }} {{ 7 / 2 }} {{ 2 ** 5 }} {{ -7 % 3 }}",
    "undefined prints nothing": "[{{ nothing }}][{{ messages[0].nothing }}][{{ x.a.nothing }}]{% if nothing %}no{% else %}yes{% endif %}",
    "string methods": "{{ ' a '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'a,b,c'.split(',') }}|{{ 'a b  c'.split() }}|{{ 'a,b,c'.split(',', 1) }}|"
    "{{ 'hello world'.title() }}|{{ 'hEllo'.capitalize() }}|{{ 'a-b'.replace('-', '+') }}|{{ 'abc'.upper().lower() }}|"
    "{{ 'abc'.startswith('ab') }}|{{ 'abc'.endswith(('x', 'c')) }}|{{ 'abcabc'.find('c') }}|{{ 'abcabc'.rfind('c') }}|{{ 'abcabc'.count('b') }}|"
    "{{ '-'.join(['a', 'b']) }}|{{ '{} {}'.format('a', 1) }}|{{ 'a\\nb'.splitlines() }}|{{ '12'.isdigit() }}",
    "dict methods": "{% for k, v in x.items() %}{{ k }}={{ v }};{% endfor %}{{ x.get('a') }}{{ x.get('zz', 'd') }}{{ x.keys()|list }}{{ x.values()|list|length }}",
    "slices": "{{ messages[1:]|length }} {{ 'abcdef'[1:-1] }} {{ 'abcdef'[::-1] }} {{ [1, 2, 3, 4][::2] }} {{ [1, 2, 3][-1] }}",
    "filters": "{{ [3, 1, 2]|sort }} {{ ['b', 'a']|join('-') }} {{ 'x'|default('y') }} {{ nothing|default('y') }} {{ ''|default('y', true) }} "
    "{{ messages|map(attribute='role')|list }} {{ messages|selectattr('role', 'equalto', 'user')|list|length }} "
    "{{ messages|rejectattr('role', 'equalto', 'user')|map(attribute='content')|join(',') }} {{ [1, 2, 3]|first }} {{ [1, 2, 3]|last }} "
    "{{ 'abc'|length }} {{ 'abc'|upper }} {{ 'a b'|title }} {{ ['a', 'a', 'b']|unique|list }} {{ '  a'|trim }} {{ 'abc'|replace('b', 'x') }} "
    "{{ x|dictsort }} {{ [1, 2]|string }} {{ '5'|int + 1 }} {{ x|items|list|length }} {{ 'a\nb'|indent(2) }} {{ [0, 1]|select|list }} {{ 'a'|list }}",
    "tests": "{{ 1 is number }} {{ 'a' is string }} {{ [] is iterable }} {{ {} is mapping }} {{ [] is sequence }} {{ none is none }} "
    "{{ x is defined }} {{ nothing is undefined }} {{ 3 is odd }} {{ 4 is divisibleby 2 }} {{ true is true }} {{ 1 is false }} {{ 'a' is in 'abc' }} {{ 'z' not in 'abc' }} {{ true is boolean }}",
    "loops": "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{{ loop.index }}{{ loop.revindex }}"
    "{{ loop.first }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('a', 'b') }} {% else %}none{% endfor %}"
    "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.content }}{% endfor %}{% for a in [] %}{% else %}empty{% endfor %}",
    "macros": "{% macro f(a, b='d') %}[{{ a }}{{ b }}]{% endmacro %}{{ f('x') }}{{ f('x', b=1) }}{% set t %}block {{ 1 }}{% endset %}{{ t }}",
    "namespace": "{% set ns = namespace(n=0, seen=[]) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% set ns.seen = ns.seen + [m.role] %}{% endfor %}{{ ns.n }}{{ ns.seen }}",
    "scope": "{% set a = 1 %}{% for i in [1, 2] %}{% set a = a + 1 %}{{ a }}{% endfor %}{{ a }}{% if true %}{% set a = 9 %}{% endif %}{{ a }}",
    "html is not escaped": "{{ '<a href=\"x\">&' }}{{ x|tojson }}{{ '<b>'|tojson }}",
    "dict": "{% set d = dict(a=1, b='c') %}{{ d.a }}{{ d['b'] }}{{ d|tojson }}",
    "ternary": "{{ 'a' if false else 'b' }}{{ 'c' if false }}{{ (not true) or 'd' }}{{ none or 'e' }}{{ 'f' and 'g' }}",
    "reasoning": "{% for m in messages %}{{ m.reasoning_content }},{{ m.thinking }},{{ m.reasoning is defined }};{% endfor %}",
    "time": "{{ strftime_now('%Y-%m-%d %H:%M:%S %A %a %B %b %j %y %I %p %-d %-m %% %e') }}",
    "numbers": "{{ [0.1, 1e16, 1e-5, 123456789.5, 1e22, -0.0, 1e100]|tojson }} {{ 1e16 }} {{ 0.00001 }} {{ 10000000000000000000000 }}",
    "raise": "{{ raise_exception('no ' ~ messages[0].role) }}",
    "comment trim": "a {#- c -#} b\n{# d #}\ne {#\n multi #}\nf",
    "filter block": "{% filter upper %}abc{% endfilter %}{% set x = 1 if messages else 2 %}{{ x }}{% with y = 3 %}{{ y }}{% endwith %}",
    "trailing newline": "a\n\n",
    "raw": "{% raw %}{{ x }}{% endraw %}",
    "escapes": "{{ 'tab\\there \\u00e9 \\x41 \\'q\\'' }}",
    "in dict": "{% if 'a' in x and x['a'] is not none %}{{ x.a[0] }}{% endif %}{{ x['b']['c'] }}",
}

USER = [{"role": "user", "content": "Hi <there> & \"you\"\n"}]
TALK = [
    {"role": "user", "content": "  Who was the first king? "},
    {"role": "assistant", "content": "Saul.", "tool_calls": None},
    {"role": "user", "content": "And then? 🦁 é"},
]
SYSTEM = [{"role": "system", "content": "Be brief."}] + TALK
THOUGHT = [
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "<think>\nEasy.\n</think>\n\n4"},
    {"role": "user", "content": "And 3+3?"},
    {"role": "assistant", "content": "6", "reasoning": "Also easy."},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a <city> & more: é",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
CALLS = [
    {"role": "user", "content": "Weather in Ur?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Ur", "days": 2, "f": 1.5}}}],
    },
    {"role": "tool", "name": "weather", "content": "hot"},
]
X = {"b": {"c": "<é>"}, "a": [1, 2.5, None, True, "q\"\\\n\t\u0001\u007f🦁"], "e": {}, "l": []}

cases = []


def add(name, key, messages, prompt=True, tools=None, **variables):
    request = {"messages": messages, "tools": tools, "add_generation_prompt": prompt, "variables": variables}
    messages = [{k: v for k, v in message.items() if v is not None} for message in messages]
    template = TEMPLATES[key]
    case = {"name": name, "template": key, **request}
    try:
        rendered, _ = chat.render_jinja_template(
            [messages], tools=tools, chat_template=template, add_generation_prompt=prompt,
            **{"bos_token": "<s>", "eos_token": "</s>", **variables},
        )
        case["text"] = rendered[0]
    except Exception as error:
        case["error"] = str(error)
    cases.append(case)


FAMILIES = {
    "chatml": CHATML, "smollm2": SMOLLM2, "llama2": LLAMA2, "llama3": LLAMA3, "llama3 tools": LLAMA3_TOOLS, "mixtral": MIXTRAL,
    "qwen2": QWEN2, "qwen3": QWEN3, "olmoe": OLMOE, "smollm3": SMOLLM3,
}
TEMPLATES = FAMILIES | SNIPPETS
for name in FAMILIES:
    for prompt in (True, False):
        for kind, messages in {"user": USER, "talk": TALK, "system": SYSTEM, "thought": THOUGHT}.items():
            add(f"{name}: {kind}", name, messages, prompt)
    add(f"{name}: wrong order", name, TALK + TALK[::-1])
    if "tools" in name or "qwen" in name:
        add(f"{name}: tools", name, CALLS, tools=TOOLS)
        add(f"{name}: calls", name, CALLS + CALLS)
    add(f"{name}: no thinking", name, TALK, enable_thinking=False)
for name in SNIPPETS:
    add(name, name, THOUGHT, x=X)

with open("chat.json", "w") as file:
    json.dump({"templates": TEMPLATES, "cases": cases}, file, ensure_ascii=False, indent=0)
    file.write("\n")
