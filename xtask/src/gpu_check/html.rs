//! `report.html`: one page that needs nothing beside it.

mod speed;

use super::report::{Report, Status};
use serde_json::Value;
use std::fmt::Write;

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --good: #2a8f4c; --bad: #c0392b; --bar: #3d7edb; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 104rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .3rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
p.note { opacity: .75; margin: .3rem 0 .6rem; max-width: 60rem; }
.verdict { padding: .6rem .9rem; border-radius: .4rem; color: #fff; background: var(--good); font-weight: 600; }
.verdict.bad { background: var(--bad); } .verdict.dry { background: #8a6d1a; margin-top: .5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .5rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { background: var(--soft); font-weight: 600; vertical-align: bottom; } td.n, th.n { text-align: right; }
td.n { white-space: nowrap; } th.n { max-width: 6rem; }
td.passed { color: var(--good); } td.failed, td.timed { color: var(--bad); font-weight: 600; } td.skipped { opacity: .7; }
td.best { font-weight: 700; }
pre { margin: .2rem 0; white-space: pre-wrap; font-size: .85em; } details > summary { cursor: pointer; margin: .4rem 0; }
.bar { display: inline-block; height: .7em; background: var(--bar); border-radius: 2px; vertical-align: baseline; min-width: 1px; }
";

/// The page.
pub(super) fn page(report: &Report) -> String {
    let mut body = String::new();
    verdict(&mut body, report);
    machine(&mut body, report);
    phases(&mut body, report);
    tests(&mut body, report);
    outputs(&mut body, report);
    speed::networks(&mut body, report);
    speed::ladders(&mut body, report);
    speed::launches(&mut body, report);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>segface gpu-check</title><style>{STYLE}</style></head>\n<body>\n{body}</body></html>\n"
    )
}

/// Text as HTML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A cell: its class, and its HTML.
type Cell = (&'static str, String);

fn text(value: impl AsRef<str>) -> Cell {
    ("", escaped(value.as_ref()))
}

fn number(value: Option<f64>, digits: usize) -> Cell {
    ("n", value.map_or("–".into(), |value| format!("{value:.digits$}")))
}

/// Three significant digits.
fn time(value: Option<f64>) -> Cell {
    number(
        value,
        value.map_or(0, |value| {
            if value >= 100.0 {
                0
            } else if value >= 10.0 {
                1
            } else if value >= 1.0 {
                2
            } else {
                3
            }
        }),
    )
}

fn table(out: &mut String, heads: &[(&str, &str)], rows: impl IntoIterator<Item = Vec<Cell>>) {
    let mut line = String::new();
    for (class, head) in heads {
        let _ = write!(line, "<th class=\"{class}\">{}</th>", escaped(head));
    }
    let _ = writeln!(out, "<div class=\"scroll\"><table><thead><tr>{line}</tr></thead><tbody>");
    for row in rows {
        let _ = write!(out, "<tr>");
        for (class, html) in row {
            let _ = write!(out, "<td class=\"{class}\">{html}</td>");
        }
        let _ = writeln!(out, "</tr>");
    }
    let _ = writeln!(out, "</tbody></table></div>");
}

fn section(out: &mut String, title: &str, note: &str) {
    let _ = writeln!(out, "<h2>{}</h2>", escaped(title));
    if !note.is_empty() {
        let _ = writeln!(out, "<p class=\"note\">{}</p>", escaped(note));
    }
}

fn verdict(out: &mut String, report: &Report) {
    let _ = writeln!(out, "<h1>segface on this machine</h1>");
    let open = report.phases.iter().filter(|phase| phase.status != Status::Passed).count();
    let took = report.elapsed().as_secs_f64();
    let (class, words) = match open {
        0 => ("verdict", format!("Everything was checked and is right, in {took:.0} s.")),
        n => ("verdict bad", format!("{n} of {} phases did not pass; took {took:.0} s.", report.phases.len())),
    };
    let _ = writeln!(out, "<div class=\"{class}\">{words}</div>");
    if report.virtual_device {
        let words = "Dry run: the device is virtual (ptxvm) and PyTorch ran on the CPU. Times mean nothing.";
        let _ = writeln!(out, "<div class=\"verdict dry\">{words}</div>");
    }
}

fn machine(out: &mut String, report: &Report) {
    section(out, "Machine", "");
    let rows =
        report.machine.iter().map(|(name, value)| vec![text(name), ("", format!("<pre>{}</pre>", escaped(value)))]);
    table(out, &[("", "what"), ("", "found")], rows);
}

fn phases(out: &mut String, report: &Report) {
    section(out, "Phases", "");
    let rows = report.phases.iter().map(|phase| {
        let (class, reason) = match &phase.status {
            Status::Passed => ("passed", ""),
            Status::Failed(reason) => ("failed", reason.as_str()),
            Status::TimedOut(reason) => ("timed", reason.as_str()),
            Status::Skipped(reason) => ("skipped", reason.as_str()),
        };
        let reason = if reason.is_empty() { String::new() } else { format!("<pre>{}</pre>", escaped(reason)) };
        vec![
            text(&phase.name),
            (class, phase.status.name().into()),
            number(Some(phase.seconds), 1),
            number(Some(phase.limit), 0),
            ("", escaped(&phase.note) + &reason),
        ]
    });
    table(out, &[("", "phase"), ("", "result"), ("n", "s"), ("n", "limit s"), ("", "")], rows);
}

fn tests(out: &mut String, report: &Report) {
    let [device, ptxvm] = &report.suites;
    if device.is_empty() && ptxvm.is_empty() {
        return;
    }
    section(out, "Tests", "Random problems, stored cases and whole networks, judged by libtorch in f64.");
    let count = |wanted: &str, index: usize| report.suites[index].values().filter(|test| test.result == wanted).count();
    let rows = ["ok", "FAILED", "unfinished", "ignored"].map(|result| {
        vec![text(result), number(Some(count(result, 0) as f64), 0), number(Some(count(result, 1) as f64), 0)]
    });
    table(out, &[("", "result"), ("n", "device"), ("n", "ptxvm")], rows);
    let differing = report.differing();
    if !differing.is_empty() {
        let rows = differing.iter().map(|(name, ours, theirs)| vec![text(name), text(ours), text(theirs)]);
        table(out, &[("", "ends otherwise"), ("", "device"), ("", "ptxvm")], rows);
    }
    for (place, tests) in [("device", device), ("ptxvm", ptxvm)] {
        for (name, test) in tests.iter().filter(|(_, test)| test.result != "ok" && test.result != "ignored") {
            let head = format!("{} {} on {place}", name, test.result);
            let _ = writeln!(
                out,
                "<details open><summary>{}</summary><pre>{}</pre></details>",
                escaped(&head),
                escaped(&test.message)
            );
        }
    }
    let _ = writeln!(out, "<details><summary>all {} tests</summary>", device.len().max(ptxvm.len()));
    let names: std::collections::BTreeSet<&String> = device.keys().chain(ptxvm.keys()).collect();
    let result = |index: usize, name: &String| report.suites[index].get(name).map_or("–", |test| &test.result);
    let rows = names.into_iter().map(|name| vec![text(name), text(result(0, name)), text(result(1, name))]);
    table(out, &[("", "test"), ("", "device"), ("", "ptxvm")], rows);
    let _ = writeln!(out, "</details>");
}

fn outputs(out: &mut String, report: &Report) {
    let records: Vec<&Value> = report.of("comparison").collect();
    if records.is_empty() {
        return;
    }
    section(
        out,
        "Outputs: device beside ptxvm",
        "Logits of networks with seeded weights. Errors are relative L2 distances to this CPU's f32 logits; the device passes with \
         at most twice ptxvm's error plus 1e-5. A label flips where the greatest logit is another on the two devices.",
    );
    let scientific =
        |record: &Value, name: &str| ("n", record[name].as_f64().map_or("–".into(), |value| format!("{value:.2e}")));
    let string = |record: &Value, name: &str| record[name].as_str().unwrap_or("").to_owned();
    let rows = records.iter().map(|record| {
        let passed = record["passed"] == true;
        vec![
            text(string(record, "network")),
            text(string(record, "precision")),
            if passed { ("passed", "passed".into()) } else { ("failed", "failed".into()) },
            text(if record["same_bits"] == true { "yes" } else { "no" }),
            scientific(record, "distance"),
            scientific(record, "device_error"),
            scientific(record, "other_error"),
            ("n", format!("{} of {}", record["label_flips"], record["pixels"])),
            text(string(record, "device_logits")),
        ]
    });
    let heads = [
        ("", "network"),
        ("", "precision"),
        ("", "result"),
        ("", "same bits"),
        ("n", "distance"),
        ("n", "device's error"),
        ("n", "ptxvm's error"),
        ("n", "labels flipped"),
        ("", "digest of the logits"),
    ];
    table(out, &heads, rows);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu_check::report::TestResult;
    use std::time::{Duration, Instant};

    fn report() -> Report {
        let mut report = Report::new(false);
        report.machine("device", "a <fast> card & more");
        report.close("build", Instant::now(), Duration::from_secs(9), Status::Passed, "");
        report.close("speed", Instant::now(), Duration::from_secs(9), Status::TimedOut("stopped after 9 s".into()), "");
        let lines = [
            r#"{"record":"speed","network":"mobilenet","precision":"bf16","batch":8,"graph_ms":2.0,"single_ms":3.0,"bound_ms":1.0,"launches":68}"#,
            r#"{"record":"torch","network":"mobilenet","precision":"bf16","batch":8,"mode":"eager","milliseconds":10.0,"graph_ms":6.0}"#,
            r#"{"record":"torch","network":"mobilenet","precision":"bf16","batch":8,"mode":"compiled","milliseconds":5.0,"graph_ms":null}"#,
            r#"{"record":"torch-missing","network":"resnet","precision":"bf16","batch":8,"mode":"compiled","reason":"no <room>"}"#,
            r#"{"record":"ladder","ladder":"gemm","shape":"s","rung":"naive","precision":"bf16","milliseconds":8.0,"gflops":10.0}"#,
            r#"{"record":"ladder","ladder":"gemm","shape":"s","rung":"tensor core","precision":"bf16","milliseconds":0.5,"gflops":160.0}"#,
            r#"{"record":"kernel","network":"mobilenet","precision":"bf16","batch":1,"size":512,"index":0,"kernel":"conv_1","operator":"conv","node":"n","grid":[1,2,3],"threads":64,"microseconds":8.0,"bound_us":4.0,"limit":"launch","gflop":0.1,"megabytes":1.0}"#,
            r#"{"record":"comparison","network":"resnet","precision":"f16","same_bits":false,"distance":1e-4,"device_error":2e-4,"other_error":1e-4,"label_flips":3,"pixels":100,"device_logits":"abc","passed":true}"#,
            "no record",
        ];
        assert_eq!(report.take(&lines.map(str::to_owned), "ladder"), 2);
        let test = |result: &str| TestResult { result: result.into(), message: "ours 1 <> 2".into() };
        report.suites[0].insert("cuda::gemm::deep".into(), test("FAILED"));
        report.suites[1].insert("cuda::gemm::deep".into(), test("ok"));
        report
    }

    #[test]
    fn the_page_has_every_section_and_escapes_what_it_shows() {
        let page = page(&report());
        for part in [
            "1 of 2 phases did not pass",
            "a &lt;fast&gt; card &amp; more",
            "stopped after 9 s",
            "ours 1 &lt;&gt; 2",
            "no &lt;room&gt;",
            "Launches beside their bounds",
            "3 of 100",
        ] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
        assert!(!page.contains("<fast>") && !page.contains("<room>"));
        // Nothing is loaded from elsewhere.
        assert!(!page.contains("http") && !page.contains("src="));
    }

    #[test]
    fn ratios_are_over_segface_as_a_graph() {
        let page = page(&report());
        assert!(page.contains("5.00×"), "eager 10 ms over ours 2 ms");
        assert!(page.contains("2.50×"), "the fastest of PyTorch, 5 ms, over ours");
        assert!(page.contains("4000"), "8 images in 2 ms");
        assert!(page.contains("16.0×"), "gain of the top rung");
        assert!(page.contains("50 %"), "of the bound");
    }

    #[test]
    fn every_tag_that_is_opened_is_closed() {
        let page = page(&report());
        for tag in ["table", "thead", "tbody", "tr", "td", "th", "details", "summary", "pre", "div", "span", "h2", "p"]
        {
            let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn the_json_says_what_failed_and_is_no_success() {
        let report = report();
        let json = report.json();
        assert_eq!(json["passed"], false);
        assert_eq!(json["phases"][1]["status"], "timed out");
        assert_eq!(json["tests"]["device"]["cuda::gemm::deep"]["result"], "FAILED");
        assert_eq!(json["records"].as_array().map(Vec::len), Some(8));
        assert_eq!(report.differing(), [("cuda::gemm::deep", "FAILED", "ok")]);
    }

    #[test]
    fn a_report_of_nothing_is_a_page_too() {
        assert!(page(&Report::new(true)).contains("Dry run"));
    }
}
