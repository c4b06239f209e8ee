use serde_json::json;

use super::*;

fn now() -> Option<CivilTime> {
    Some(CivilTime::new((2026, 3, 1), (9, 5, 7)).unwrap())
}

/// As an import takes them: all compile.
fn from_files(
    config: Option<&[u8]>,
    special: Option<&[u8]>,
    template: Option<&[u8]>,
) -> Result<ChatTemplates, ChatError> {
    let read = ChatTemplates::read(config, special, template);
    read.check().map(|()| read)
}

fn templates(template: &str) -> Result<ChatTemplates, ChatError> {
    let config =
        json!({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null});
    from_files(Some(config.to_string().as_bytes()), None, Some(template.as_bytes()))
}

fn render(template: &str, messages: &[Json]) -> Result<String, ChatError> {
    templates(template)?.render(&ChatRequest { messages, now: now(), ..ChatRequest::default() })
}

fn hello() -> [Json; 1] {
    [json!({"role": "user", "content": "Hello"})]
}

#[test]
fn golden_chats_of_transformers() {
    let golden: Json = serde_json::from_str(include_str!("../../tests/golden/chat.json")).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 120);
    let mut wrong = Vec::new();
    for case in cases {
        let template = golden["templates"][case["template"].as_str().unwrap()].as_str().unwrap();
        let rendered = templates(template).and_then(|templates| {
            templates.render(&ChatRequest {
                messages: case["messages"].as_array().unwrap(),
                tools: case["tools"].as_array().map(Vec::as_slice),
                add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
                now: now(),
                variables: case["variables"].as_object(),
                ..ChatRequest::default()
            })
        });
        let expected = match case["error"].as_str() {
            Some(reason) => Err(ChatError::Refused { reason: reason.to_owned() }),
            None => Ok(case["text"].as_str().unwrap().to_owned()),
        };
        if rendered != expected {
            wrong.push(format!("{}\n  expected {expected:?}\n  rendered {rendered:?}", case["name"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn endless_and_greedy_templates_run_out_of_fuel() {
    for template in [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 10000000000 }}",
        "{% set ns = namespace(x='x') %}{% for i in range(1000) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x.replace('x', 'xx') %}{% endfor %}",
        "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x.join([ns.x, ns.x]) %}{% endfor %}",
        // A width aborted the process, a precision took all memory.
        "{{ '{:>1000000000000000}'.format('x') }}",
        "{{ '{:.9999999999f}'.format(1.5) }}",
        "{{ '{:.70000f}'.format(1) }}",
        "{{ '{:}>99999999}'.format('x') }}",
        "{{ '{:09999999,}'.format(1) }}",
        "{{ '{n:>99999999,.3f}'.format(n=1.5) }}",
        "{{ '{:>99999999999999999999999999}'.format('x') }}",
        "{{ ('{0:>60000}' * 10000).format('x') }}",
        "{% set x = 'x' * 1000000 %}{{ ('{0}' * 1000).format(x) }}",
        "{% set x = 'x' * 1000000 %}{{ ('{x[a]}' * 1000).format(x={'a': x}) }}",
        "{{ ('{0:f}' * 100000).format(1e300) }}",
        "{{ ('a,' * 1000000).split(',') }}",
        "{{ ('a,' * 1000000).split(sep=',') }}",
        "{{ ('a,' * 1000000).rsplit(',') }}",
        "{{ 'a'.ljust(99999999999) }}",
        "{{ 'a'.center(99999999999) }}",
        "{{ 'a'.zfill(99999999999) }}",
        "{{ ('a ' * 1000000).split() }}",
        "{{ ('\\n' * 1000000).splitlines() }}",
        "{{ ('b' * 1000000).strip('a' * 1000000) }}",
        // Keys and separators count like values.
        "{% set d = {'k' * 1000000: 1} %}{{ [d] * 1000 }}",
        "{% set d = {'k' * 1000000: 1} %}{{ ([d] * 1000)|tojson }}",
        "{{ ([1] * 1000)|tojson(separators=['k' * 1000000, ':']) }}",
    ] {
        assert_eq!(render(template, &hello()), Err(ChatError::OutOfFuel), "{template}");
    }
    // A list that holds one list twice, that holds one list twice …: small, but not when written out.
    let doubled =
        "{% set ns = namespace(x=[]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
    for end in [
        "{{ ns.x|tojson }}",
        "{{ ns.x|tojson(indent=60) }}",
        "{{ ns.x }}",
        "{{ ns.x|string }}",
        "{{ ''.join([ns.x]) }}",
        "{{ '{}'.format(ns.x) }}",
        "{{ '{x}'.format(x=ns.x) }}",
        "{% set d = {'a': ns.x} %}{{ d.values() }}",
        "{{ raise_exception(ns.x) }}",
        "{{ ns.x|upper }}",
        "{{ ns.x|join }}",
        "{{ ['x', 'y']|map('upper')|join(ns.x) }}",
        "{{ '%s'|format(ns.x) }}",
    ] {
        assert_eq!(render(&(doubled.to_owned() + end), &hello()), Err(ChatError::OutOfFuel), "{end}");
    }
}

/// A namespace that held itself was written out, or compared, until the stack was gone: the process died.
#[test]
fn a_namespace_cannot_hold_itself() {
    let start = "{% set a = namespace() %}{% set b = namespace(x=a) %}";
    for set in [
        "{% set a.s = a %}",
        "{%-set  a . s=a-%}",
        "{% set a.s = [1, {'k': (a, 2)}] %}",
        "{% set a.s = {'k': [b]} %}",
        "{% set a.s = 1, a %}",
        "{% set a.s = a if true else 1 %}",
        "{% set (a.s) = a %}",
        "{% set a.s, c = [a], 1 %}",
        "{% set a.s = [{'x': a}]|map(attribute='x') %}",
        "{% set a.s = b.x %}",
        "{% raw %}endraw{# {% endraw %}{% set a.s = a %}{# #}",
        "{{ '{#' }}{% set a.s = a %}{{ '#}' }}",
        "{% raw %}{% endraw %}{% for a in [a] %}{% set a.s = a %}{% endfor %}",
        "{% macro free_of_namespaces(x) %}{{ x }}{% endmacro %}{% set free_of_namespaces = 1 %}{% set a.s = a %}",
    ] {
        for end in ["{{ a ~ '' }}", "{{ a|upper }}", "{{ a == b }}", "{{ raise_exception(a) }}", ""] {
            let error = render(&[start, set, end].concat(), &hello());
            let Err(ChatError::Render { reason, .. }) = &error else { panic!("{set}{end}: {error:?}") };
            assert!(reason.contains("namespace"), "{set}: {reason}");
        }
    }
    let block = "{% set a = namespace() %}{% set a.s | default(a, true) %}{% endset %}";
    assert!(matches!(templates(block), Err(ChatError::Syntax { .. })));
    // Brackets that only match once the value is put in some.
    for set in ["{% set a.s = a) if true else (1 %}", "{% set a.s = a)|list + (1,) %}"] {
        assert!(matches!(templates(&[start, set].concat()), Err(ChatError::Syntax { .. })), "{set}");
    }
    // What templates do with namespaces.
    let ordinary = "{% set ns = namespace(found=false, n=0, all=[]) %}{% for m in messages %}\
        {% set ns.found = m.role == 'user' %}{% set ns.n = ns.n + 1 -%}\n{% set ns.all = ns.all + [m] %}\
        {% set ns.t %}<{{ m.role }}>{% endset %}{% endfor %}\
        {{ ns.found }} {{ ns.n }} {{ ns.all[0].content }} {{ ns.t }} {% raw %}{% set a.s = a %}{% endraw %}";
    assert_eq!(render(ordinary, &hello()).unwrap(), "True 1 Hello <user> {% set a.s = a %}");
}

/// Expected values are Jinja's and Python's.
#[test]
fn tests_lines_numbers_and_parts_are_as_in_python() {
    for (template, expected) in [
        ("{{ none is iterable }} {{ x is iterable }} {{ 1 is iterable }}", "False True False"),
        ("{{ 'a' is iterable }} {{ [] is iterable }} {{ {} is iterable }}", "True True True"),
        ("{{ 'a' is sequence }} {{ {} is sequence }} {{ none is sequence }}", "True True False"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("{{ 1e-5|string }} {{ 1e22|string }} {{ 2.5|string }} {{ 3|string }}", "1e-05 1e+22 2.5 3"),
        ("{{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }} {{ 'a'.removesuffix('') }}", "bc ab a"),
        ("{{ 'a=b=c'.partition('=')|join(';') }} {{ 'a=b=c'.rpartition('=')|join(';') }}", "a;=;b=c a=b;=;c"),
        ("{{ 'a'.partition('=')|join(';') }} {{ 'a'.rpartition('=')|join(';') }}", "a;; ;;a"),
    ] {
        assert_eq!(render(template, &hello()).unwrap(), expected, "{template}");
    }
    // As the chat templates of Nemotron 3 ask.
    let tools = "{% if tools is iterable and tools | length > 0 %}tools{% else %}none{% endif %}";
    assert_eq!(render(tools, &hello()).unwrap(), "none");
}

/// Expected values are Python's.
#[test]
fn methods_of_texts_do_what_python_s_do() {
    for (template, expected) in [
        ("{{ '{} {}'.format(bos_token, messages[0].content) }}", "<s> Hello"),
        ("{{ '{0}-{0:>4}|{n:05.1f}|{m[a]:^3}'.format('x', n=2.5, m={'a': 7}) }}", "x-   x|002.5| 7 "),
        ("{{ 'on 20260301: {}, then 99999999'.format('x') }}", "on 20260301: x, then 99999999"),
        ("{{ '{:>300}'.format('x')|length }}", "300"),
        ("{{ ', '.join(['a', 1, 'b']) }}", "a, 1, b"),
        ("{{ 'a b  c'.split()|length }}{{ 'a,b,c'.split(',', 1)[1] }}", "3b,c"),
        ("{{ 'a\\nb\\n'.splitlines()|length }}{{ '-+x+'.strip('+-') }}", "2x"),
        ("{{ 'abc'.startswith(['x', 'ab']) }} {{ 'abc'.endswith('b') }}", "True False"),
        ("{{ 'a,b,c'.split(',', maxsplit=1)|join(';') }}", "a;b,c"),
        ("{{ 'a,b,c'.split(maxsplit=1, sep=',')|join(';') }}", "a;b,c"),
        ("{{ 'a b c'.split(maxsplit=1)|join(';') }}", "a;b c"),
        ("{{ 'a,b,c'.rsplit(',', 1)|join(';') }} {{ ' a  b '.rsplit()|join(';') }}", "a,b;c a;b"),
        ("{{ ' a b  c '.rsplit(maxsplit=1)|join(';') }}", " a b;c"),
        ("{{ 'äbä'.index('b') }} {{ 'äbä'.find('ä', 1) }} {{ 'aa'.count('a', 1) }}", "1 2 1"),
        (
            "{{ 'ab'.startswith('b', 1) }} {{ 'ab'.startswith('b', -1) }} {{ 'ab'.find('', 3) }}",
            "True True -1",
        ),
        ("{{ 'a'.ljust(3, '.') }} {{ 'a'.rjust(3) }} {{ 'abc'.ljust(2) }}", "a..   a abc"),
        ("{{ 'ab'.center(5, '.') }} {{ 'a'.center(4, '.') }}", "..ab. .a.."),
        ("{{ '-7'.zfill(4) }} {{ '7'.zfill(3) }} {{ '+'.zfill(2) }}", "-007 007 +0"),
        ("{{ 'aB1'.swapcase() }} {{ 'ÄB'.casefold() }}", "Ab1 äb"),
        ("{{ 'a_b'.title() }} {{ \"it's 1ST\".title() }}", "A_B It'S 1St"),
        ("{{ ''|default('x', boolean=true) }} {{ y|default('x') }}", "x x"),
        ("{{ ''|d(default_value='z', boolean=true) }} {{ ''|d('x') }}", "z "),
        ("{{ 1e308 * 10 }} {{ (-10 * 1e308)|string }} {{ 1e308 * 10 - 1e308 * 10 }}", "inf -inf nan"),
    ] {
        assert_eq!(render(template, &hello()).as_deref(), Ok(expected), "{template}");
    }
}

#[test]
fn deep_values_and_deep_templates_are_errors() {
    let nested = "{% set ns = namespace(x=[]) %}{% for i in range(N) %}{% set ns.x = [ns.x] %}{% endfor %}";
    for end in ["", "{{ ns.x }}", "{{ ns.x|tojson }}", "{{ ns.x == [ns.x] }}"] {
        let rendered = render(&(nested.replace('N', "1000") + end), &hello());
        assert_eq!(rendered.is_err(), end.contains("tojson"), "{end}");
        let deeper = render(&(nested.replace('N', "1001") + end), &hello());
        assert!(matches!(deeper, Err(ChatError::Render { .. })), "{deeper:?}");
    }
    let recursion = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
    assert!(matches!(render(recursion, &hello()), Err(ChatError::Render { .. } | ChatError::OutOfFuel)));
    let long = |before: &str, part: &str, after: &str| {
        let room = MAX_TEMPLATE_BYTES - before.len() - after.len();
        format!("{before}{}{after}", part.repeat(room / part.len()))
    };
    for (before, part, after) in [
        ("{{ ", "-", "1 }}"),
        ("{{ ", "not ", "1 }}"),
        ("{{ a", ".b", " }}"),
        ("{{ 1", "+1", " }}"),
        ("{{ 1", "|e", " }}"),
        ("{{ f", "()", " }}"),
        ("{{ 1", " or 1", " }}"),
        ("{{ 1", "**1", " }}"),
        ("{{ 1", " if 1 else 1", " }}"),
        ("{% if 1 %}", "{% elif 1 %}", "{% endif %}"),
        ("{% if 1 %}", "{% if 1 %}", ""),
        ("{{ ", "(", ""),
        ("{{ ", "[", ""),
    ] {
        // Most are refused when they are compiled, some run. None may overflow the stack.
        let _ = render(&long(before, part, after), &hello());
    }
}

#[test]
fn a_long_chat_has_the_fuel_it_needs() {
    let golden: Json = serde_json::from_str(include_str!("../../tests/golden/chat.json")).unwrap();
    let messages: Vec<Json> = (0..2000)
        .map(|n| if n % 2 == 0 { "user" } else { "assistant" })
        .map(|role| json!({"role": role, "content": "and he said unto them, ".repeat(20)}))
        .collect();
    for family in ["qwen3", "llama3 tools", "mixtral", "chatml"] {
        let rendered = render(golden["templates"][family].as_str().unwrap(), &messages);
        assert!(rendered.unwrap().len() > 2000 * 400, "{family}");
    }
    // Some templates do a thousand operations a message.
    let busy = "{% for m in messages %}{% for i in range(200) %}{% endfor %}.{% endfor %}";
    assert_eq!(render(busy, &messages).unwrap().len(), 2000);
}

#[test]
fn what_a_template_refuses_comes_out_in_its_words() {
    let refused = render("{{ raise_exception('only ' ~ messages|length) }}", &hello());
    assert_eq!(refused, Err(ChatError::Refused { reason: "only 1".to_owned() }));
    let inside = render("{% macro f() %}{{ raise_exception('no') }}{% endmacro %}{{ f() }}", &hello());
    assert_eq!(inside, Err(ChatError::Refused { reason: "no".to_owned() }));
    let missing = render("a\n{{ messages[0].x.y }}", &hello());
    assert!(matches!(missing, Err(ChatError::Render { line: 2, .. })), "{missing:?}");
    assert!(matches!(templates("a\n{% nonsense %}"), Err(ChatError::Syntax { line: 2, .. })));
    assert!(matches!(render("{% include 'x' %}", &hello()), Err(ChatError::Render { .. })));
}

#[test]
fn the_time_is_what_the_caller_says() {
    let render = |template: &str, now| {
        let messages = hello();
        templates(template)?.render(&ChatRequest { messages: &messages, now, ..ChatRequest::default() })
    };
    assert_eq!(render("{{ strftime_now('%Y') }}", now()).unwrap(), "2026");
    assert_eq!(render("{{ strftime_now('%Y') }}", None), Err(ChatError::NeedsTime));
    let fallback = "{% if strftime_now is defined %}{{ strftime_now('%d') }}{% else %}none{% endif %}";
    assert_eq!(render(fallback, None).unwrap(), "none");
    assert!(matches!(render("{{ strftime_now('%Q') }}", now()), Err(ChatError::Render { .. })));
}

#[test]
fn impossible_times_are_refused() {
    let new = |date, time| CivilTime::new(date, time).map_err(|error| error.to_string());
    assert!(new((2024, 2, 29), (23, 59, 59)).is_ok());
    for (date, time) in [
        ((2023, 2, 29), (0, 0, 0)),
        ((0, 1, 1), (0, 0, 0)),
        ((2024, 13, 1), (0, 0, 0)),
        ((2024, 0, 1), (0, 0, 0)),
        ((1900, 2, 29), (0, 0, 0)),
        ((2024, 4, 31), (0, 0, 0)),
        ((2024, 1, 1), (24, 0, 0)),
        ((2024, 1, 1), (0, 0, 60)),
    ] {
        assert!(new(date, time).is_err(), "{date:?} {time:?}");
    }
    // The first of each month of 2000 to 2003 follows the last day of the month before.
    let mut weekday = 6; // 1 January 2000 was a Saturday.
    for year in 2000..2004 {
        for month in 1..=12 {
            let first = CivilTime::new((year, month, 1), (0, 0, 0)).unwrap();
            assert_eq!(first.format("%w").unwrap(), weekday.to_string(), "{year}-{month}");
            let days = (28..=31).filter(|&day| CivilTime::new((year, month, day), (0, 0, 0)).is_ok()).max();
            weekday = (weekday + days.unwrap()) % 7;
        }
    }
}

#[test]
fn a_checkpoint_has_one_template_or_several() {
    let list = json!([
        {"name": "default", "template": "d"},
        {"name": "tool_use", "template": "t"},
        {"name": "rag", "template": "r"}
    ]);
    let config = json!({"chat_template": list}).to_string();
    let several = from_files(Some(config.as_bytes()), None, None).unwrap();
    assert_eq!(several.names().collect::<Vec<_>>(), ["default", "rag", "tool_use"]);
    let messages = hello();
    let plain = ChatRequest { messages: &messages, ..ChatRequest::default() };
    assert_eq!(several.render(&plain).unwrap(), "d");
    assert_eq!(several.render(&ChatRequest { tools: Some(&[]), ..plain.clone() }).unwrap(), "t");
    assert_eq!(several.render(&ChatRequest { template: Some("rag"), ..plain.clone() }).unwrap(), "r");
    let unknown = several.render(&ChatRequest { template: Some("x"), ..plain.clone() });
    assert!(matches!(unknown, Err(ChatError::UnknownTemplate { available, .. }) if available.len() == 3));

    let file = from_files(Some(config.as_bytes()), None, Some(b"file")).unwrap();
    assert_eq!(file.render(&plain).unwrap(), "file");
    let none = from_files(None, None, None).unwrap();
    assert!(none.is_empty());
    assert_eq!(none.render(&plain), Err(ChatError::NoTemplate));
    let config = json!({"chat_template": "one"}).to_string();
    let one = from_files(Some(config.as_bytes()), None, None).unwrap();
    assert_eq!(one.render(&plain).unwrap(), "one");
    assert_eq!(one.render(&ChatRequest { tools: Some(&[]), ..plain }).unwrap(), "one");
}

#[test]
fn special_tokens_come_from_either_file() {
    let map = json!({"bos_token": {"content": "<map>", "special": true}, "unk_token": "<unk>"}).to_string();
    let read = |config: Json| {
        let config = config.to_string();
        let read = from_files(Some(config.as_bytes()), Some(map.as_bytes()), None).unwrap();
        ["bos_token", "eos_token", "unk_token"].map(|name| read.special_token(name).map(str::to_owned))
    };
    let some = |text: &str| Some(text.to_owned());
    let old = read(json!({"bos_token": "<config>", "eos_token": {"content": "</s>"}}));
    assert_eq!(old, [some("<map>"), some("</s>"), some("<unk>")]);
    let new = read(json!({"bos_token": "<config>", "eos_token": null, "added_tokens_decoder": {}}));
    assert_eq!(new, [some("<config>"), None, None]);

    // As transformers 5.23 renders it.
    let config = json!({
        "chat_template": "[{{ image_token }}|{{ bos_token }}|{{ eoi_token }}|{{ extra_special_tokens }}]",
        "image_token": {"__type": "AddedToken", "content": "<img>"},
        "bos_token": "<s>",
        "add_bos_token": true,
        "extra_special_tokens": {"eoi_token": "<eoi>"},
    });
    let own = from_files(Some(config.to_string().as_bytes()), None, None).unwrap();
    let messages = hello();
    let request = ChatRequest { messages: &messages, ..ChatRequest::default() };
    assert_eq!(own.render(&request).unwrap(), "[<img>|<s>|<eoi>|]");
    let map = json!({"image_token": "<old>"}).to_string();
    let config = json!({"chat_template": "{{ image_token }}"}).to_string();
    let old = from_files(Some(config.as_bytes()), Some(map.as_bytes()), None).unwrap();
    assert_eq!(old.render(&request).unwrap(), "<old>");
}

#[test]
fn hostile_files_and_messages_are_refused() {
    for config in ["[]", "{", "1", "", r#"{"chat_template":3}"#, r#"{"chat_template":[{"name":"x"}]}"#] {
        let read = from_files(Some(config.as_bytes()), None, None);
        assert!(matches!(read, Err(ChatError::Config { .. })), "{config}");
    }
    assert!(matches!(from_files(None, None, Some(b"\xff")), Err(ChatError::Config { .. })));
    assert!(matches!(templates(&" ".repeat(MAX_TEMPLATE_BYTES + 1)), Err(ChatError::Syntax { .. })));
    assert_eq!(render("", &[]), Err(ChatError::NoMessages));
    for message in [json!(null), json!("Hello"), json!({"content": "x"}), json!({"role": 1})] {
        let messages = [hello()[0].clone(), message];
        assert_eq!(render("", &messages), Err(ChatError::Message { index: 1 }));
    }
}

/// A template that did not compile once made the whole model unopenable.
#[test]
fn a_template_that_does_not_compile_spoils_only_itself() {
    let hello = hello();
    let ask = |template| ChatRequest { messages: &hello, template, ..ChatRequest::default() };
    let config = json!({"chat_template": [
        {"name": "default", "template": "\n{% if %}"}, {"name": "plain", "template": "ok"},
    ]});
    let config = config.to_string();
    let read = ChatTemplates::read(Some(config.as_bytes()), None, None);
    assert_eq!(read.names().collect::<Vec<_>>(), ["default", "plain"]);
    assert!(matches!(read.check(), Err(ChatError::Syntax { line: 2, .. })));
    assert_eq!(read.render(&ask(None)), Err(read.check().unwrap_err()));
    assert_eq!(read.render(&ask(Some("plain"))).unwrap(), "ok");
    // What the engine must not see is not rendered either.
    let deep = format!("{{{{ {}1 }}}}", "-".repeat(MAX_TAG_BYTES));
    let read = ChatTemplates::read(None, None, Some(deep.as_bytes()));
    assert!(matches!(read.render(&ask(None)), Err(ChatError::Syntax { line: 0, .. })));
    let read = ChatTemplates::read(Some(br#"{"bos_token":"<s>","chat_template":3}"#), None, None);
    assert_eq!(read.special_token("bos_token"), Some("<s>"));
    assert!(matches!(read.render(&ask(None)), Err(ChatError::Config { .. })));
}

#[test]
fn generation_tags_become_blocks_wherever_they_are_tags() {
    for (template, expected) in [
        ("{% generation %}x{% endgeneration %}", "{% with %}x{% endwith %}"),
        ("{%- generation -%}", "{%- with -%}"),
        ("{%+generation+%}", "{%+ with +%}"),
        ("{{ '{% generation %}' }}", "{{ '{% generation %}' }}"),
        ("{% if '%}{% generation %}' %}", "{% if '%}{% generation %}' %}"),
        ("{# {% generation %} #}", "{# {% generation %} #}"),
        ("{% raw %}{% generation %}{% endraw %}", "{% raw %}{% generation %}{% endraw %}"),
        ("{{ {'a': {'b': 1}} }}{% generation %}", "{{ {'a': {'b': 1}} }}{% with %}"),
        ("{% generation", "{% generation"),
        ("é{é{%é%}{", "é{é{%é%}{"),
        ("{{ 'it\\'s {% generation %}' }}", "{{ 'it\\'s {% generation %}' }}"),
    ] {
        assert_eq!(without_generation_tags(template), expected);
    }
    let scoped = "{% set x = 'a' %}{% generation %}{% set x = 'b' %}{{ x }}{% endgeneration %}{{ x }}";
    assert_eq!(render(scoped, &hello()).as_deref(), Ok("ba"), "as transformers renders it");
}

#[test]
fn only_tags_with_thousands_of_operators_are_refused() {
    let compile = |template: &str| from_files(None, None, Some(template.as_bytes()));
    let deep = format!("{}1", "-".repeat(MAX_TAG_BYTES));
    for template in [
        format!("{{{{ {deep} }}}}"),
        format!("{{# {{{{ ' #}}{{{{ {deep} }}}}"),
        format!("{{% raw %}}endraw {{{{ ' {{%- endraw %}}{{{{ {deep} }}}}"),
        format!("{{{{ {{1: {{1: 1}}}} or {deep} }}}}"),
        format!("{{% set a = \"'\" ~ ({deep}) %}}"),
    ] {
        assert!(matches!(compile(&template), Err(ChatError::Syntax { line: 0, .. })), "{template}");
    }
    for template in [
        deep.clone(),
        format!("{{{{ '{deep}' ~ \"\\\"{deep}\" }}}}"),
        format!("{{# {deep} #}}"),
        format!("{{% raw %}}{{{{ {deep} }}}}{{% endraw %}}"),
        "{{ 1 + 1 }}".repeat(MAX_TAG_BYTES),
    ] {
        assert!(compile(&template).is_ok());
    }
}
