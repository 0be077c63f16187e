//! The header language of the families' files.

use ptxvm::ptx::ast::Type;

/// A register that a case is given or leaves.
#[derive(Clone, Debug)]
pub(crate) struct Register {
    pub(crate) name: String,
    pub(crate) ty: Type,
    /// What stands in brackets after the type, which narrows the operands.
    pub(crate) constraint: String,
}

/// `name=value` for every lane, or `name@lane=value` for one.
#[derive(Clone, Debug)]
pub(crate) struct Assignment {
    pub(crate) name: String,
    pub(crate) lane: Option<usize>,
    pub(crate) value: String,
}

/// Operands and results worked out by hand. Operands that are not named are zero.
#[derive(Clone, Debug)]
pub(crate) struct Expectation {
    pub(crate) inputs: Vec<Assignment>,
    pub(crate) outputs: Vec<Assignment>,
    pub(crate) line: usize,
}

/// One combination of a case.
#[derive(Clone, Debug)]
pub(crate) struct Variant {
    /// The first instruction, for reports.
    pub(crate) title: String,
    pub(crate) line: usize,
    pub(crate) inputs: Vec<Register>,
    pub(crate) outputs: Vec<Register>,
    pub(crate) compare: String,
    pub(crate) target: String,
    pub(crate) module: Vec<String>,
    pub(crate) warp: bool,
    pub(crate) code: Vec<String>,
    pub(crate) expectations: Vec<Expectation>,
}

/// The text of a case before the combinations are made.
#[derive(Default)]
struct Draft {
    run: String,
    line: usize,
    combinations: Vec<Vec<(String, String)>>,
    compare: String,
    target: String,
    module: Vec<String>,
    warp: bool,
    code: Vec<String>,
    expectations: Vec<(String, usize)>,
}

/// All variants of a file, and how many cases they come from. Panics on a malformed file: it is part of the tests.
pub(crate) fn parse(text: &str) -> (usize, Vec<Variant>) {
    let mut drafts: Vec<Draft> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let trimmed = line.trim();
        if let Some(run) = trimmed.strip_prefix("// run:") {
            let run = run.trim().to_owned();
            drafts.push(Draft { run, line: number, target: "sm_90".to_owned(), ..Draft::default() });
            continue;
        }
        let Some(draft) = drafts.last_mut() else { continue };
        if let Some(list) = trimmed.strip_prefix("// for:") {
            draft.combinations.extend(combinations(list));
        } else if let Some(rule) = trimmed.strip_prefix("// compare:") {
            draft.compare = rule.trim().to_owned();
        } else if let Some(target) = trimmed.strip_prefix("// target:") {
            draft.target = target.trim().to_owned();
        } else if let Some(declaration) = trimmed.strip_prefix("// module:") {
            draft.module.push(declaration.trim().to_owned());
        } else if let Some(expectation) = trimmed.strip_prefix("// expect") {
            draft.expectations.push((expectation.to_owned(), number));
        } else if trimmed == "// warp" {
            draft.warp = true;
        } else if !trimmed.is_empty() && !trimmed.starts_with("//") {
            draft.code.push(line.to_owned());
        }
    }
    let variants = drafts.iter().flat_map(expand).collect();
    (drafts.len(), variants)
}

/// `A=1,2 B=x,y` gives four combinations.
fn combinations(list: &str) -> Vec<Vec<(String, String)>> {
    let mut all = vec![Vec::new()];
    for assignment in list.split_whitespace() {
        let (name, values) = assignment.split_once('=').unwrap_or_else(|| panic!("`for: {list}` lacks a `=`"));
        all = all
            .iter()
            .flat_map(|chosen: &Vec<(String, String)>| {
                values.split(',').map(|value| {
                    let mut chosen = chosen.clone();
                    chosen.push((name.to_owned(), value.to_owned()));
                    chosen
                })
            })
            .collect();
    }
    all
}

fn expand(draft: &Draft) -> Vec<Variant> {
    let single = vec![Vec::new()];
    let combinations = if draft.combinations.is_empty() { &single } else { &draft.combinations };
    combinations
        .iter()
        .map(|chosen| {
            let substitute = |text: &str| {
                let mut names: Vec<&(String, String)> = chosen.iter().collect();
                names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
                names.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${name}"), value))
            };
            let run = substitute(&draft.run);
            let (inputs, outputs) =
                run.split_once("->").unwrap_or_else(|| panic!("line {}: `run:` lacks `->`", draft.line));
            let code: Vec<String> = draft.code.iter().map(|line| substitute(line)).collect();
            let wanted = |guard: &str| {
                guard.split_whitespace().all(|condition| {
                    let (name, values) = condition.split_once('=').expect("a condition is NAME=value");
                    let actual = chosen.iter().find(|(known, _)| known == name);
                    actual.is_some_and(|(_, actual)| values.split(',').any(|value| value == actual))
                })
            };
            let expectations = draft
                .expectations
                .iter()
                .filter_map(|(text, line)| {
                    let (guard, body) = text.split_once(':').expect("`expect` is followed by `:`");
                    wanted(guard).then(|| expectation(&substitute(body), *line))
                })
                .collect();
            Variant {
                title: code
                    .iter()
                    .find(|line| line.contains(';') && !line.trim().starts_with('.'))
                    .cloned()
                    .unwrap_or_default()
                    .trim()
                    .to_owned(),
                line: draft.line,
                inputs: registers(inputs, draft.line),
                outputs: registers(outputs, draft.line),
                compare: substitute(&draft.compare),
                target: draft.target.clone(),
                module: draft.module.iter().map(|line| substitute(line)).collect(),
                warp: draft.warp,
                code,
                expectations,
            }
        })
        .collect()
}

fn registers(list: &str, line: usize) -> Vec<Register> {
    list.split_whitespace()
        .map(|item| {
            let (name, rest) = item.split_once(':').unwrap_or_else(|| panic!("line {line}: `{item}` has no type"));
            let (ty, constraint) = match rest.split_once('[') {
                Some((ty, constraint)) => (ty, constraint.trim_end_matches(']')),
                None => (rest, ""),
            };
            let ty = Type::parse(ty).unwrap_or_else(|| panic!("line {line}: `{ty}` is no type"));
            Register { name: name.to_owned(), ty, constraint: constraint.to_owned() }
        })
        .collect()
}

fn expectation(body: &str, line: usize) -> Expectation {
    let (inputs, outputs) = body.split_once("->").unwrap_or_else(|| panic!("line {line}: `expect` lacks `->`"));
    let assignment = |item: &str| {
        let (name, value) = item.split_once('=').unwrap_or_else(|| panic!("line {line}: `{item}` lacks `=`"));
        let (name, lane) = match name.split_once('@') {
            Some((name, lane)) => (name, Some(lane.parse().expect("a lane is a number"))),
            None => (name, None),
        };
        Assignment { name: name.to_owned(), lane, value: value.to_owned() }
    };
    Expectation {
        inputs: inputs.split_whitespace().map(assignment).collect(),
        outputs: outputs.split_whitespace().map(assignment).collect(),
        line,
    }
}
