//! Several modules become one program: who sees whose names, by the linkage that each symbol was declared with.
//!
//! `.visible` is seen by all and defined once; `.weak` gives way to `.visible` and to the first `.weak`; of several
//! `.common` variables the largest stays; without a directive a symbol belongs to its module alone.

use super::{
    CompileError,
    symbols::{ModuleSymbols, Symbol, VariableLists},
    variables::{declaration_error, module_variable},
};
use crate::ptx::ast::{Function, Linkage, Module, Variable};
use std::collections::HashMap;

/// A function with a body, and the module it stands in.
pub(super) struct Body<'a> {
    pub(super) function: &'a Function,
    pub(super) module: u32,
}

/// Modules whose names stand for one another's symbols.
pub(super) struct Linked<'a> {
    /// What each module sees.
    pub(super) modules: Vec<ModuleSymbols>,
    pub(super) lists: VariableLists,
    pub(super) bodies: Vec<Body<'a>>,
    /// `.file` names; the numbers of a module's files follow those of the modules before ([`ModuleSymbols::file_base`]).
    pub(super) files: HashMap<u32, String>,
}

/// A symbol that all modules see.
#[derive(Clone)]
struct Shown {
    symbol: Symbol,
    linkage: Linkage,
}

/// What a second definition of a name means.
enum Second {
    /// The first one stays.
    Ignored,
    /// It takes the place of the first.
    Replaces,
    /// A mistake.
    Twice,
}

fn second(first: Linkage, second: Linkage) -> Second {
    match (first, second) {
        (Linkage::Visible, Linkage::Visible) => Second::Twice,
        (Linkage::Weak | Linkage::Common, Linkage::Visible) => Second::Replaces,
        _ => Second::Ignored,
    }
}

/// Links modules.
pub(super) fn link(modules: &[Module]) -> Result<Linked<'_>, CompileError> {
    let mut linked = Linked {
        modules: Vec::with_capacity(modules.len()),
        lists: VariableLists::default(),
        bodies: Vec::new(),
        files: HashMap::new(),
    };
    let mut shown: HashMap<&str, Shown> = HashMap::new();
    for (number, module) in modules.iter().enumerate() {
        let file_base = linked.files.keys().max().map_or(0, |last| last + 1);
        linked.files.extend(module.files.iter().map(|(index, name)| (file_base.saturating_add(*index), name.clone())));
        linked.modules.push(ModuleSymbols {
            version: module.version.0 * 10 + module.version.1,
            target: architecture(module),
            features: features(module),
            number: number as u32,
            file_base,
            names: HashMap::new(),
        });
        linked.functions(module, &mut shown)?;
        linked.variables(module, &mut shown)?;
    }
    for (module, symbols) in modules.iter().zip(&mut linked.modules) {
        // What a module declares and does not define for itself is found among what all see.
        let functions = module.functions.iter().filter(|function| function.linkage != Linkage::Private);
        let variables = module.variables.iter().filter(|variable| variable.linkage != Linkage::Private);
        let names = functions.map(|function| &function.name).chain(variables.map(|variable| &variable.name));
        for name in names {
            let Some(shown) = shown.get(name.as_str()) else { continue };
            let own = symbols.names.entry(name.clone()).or_insert_with(|| shown.symbol.clone());
            // `.extern .shared x[]` is the launch's dynamic memory unless another module gives it a size.
            if matches!(own, Symbol::Shared(at) if linked.lists.shared[*at as usize].is_dynamic) {
                own.clone_from(&shown.symbol);
            }
        }
        for (alias, target) in &module.aliases {
            if let Some(symbol) = symbols.names.get(target).cloned() {
                symbols.names.insert(alias.clone(), symbol);
            }
        }
    }
    Ok(linked)
}

impl<'a> Linked<'a> {
    fn own(&mut self) -> Option<&mut ModuleSymbols> {
        self.modules.last_mut()
    }

    fn functions(&mut self, module: &'a Module, shown: &mut HashMap<&'a str, Shown>) -> Result<(), CompileError> {
        let number = (self.modules.len() - 1) as u32;
        let twice = |function: &Function| CompileError {
            line: function.line,
            function: function.name.clone(),
            opcode: "definition".to_owned(),
            reason: "the function is defined twice".to_owned(),
        };
        let mut here = HashMap::new();
        for function in module.functions.iter().filter(|function| function.body.is_some()) {
            if here.insert(&function.name, ()).is_some() {
                return Err(twice(function));
            }
            let symbol = Symbol::Function(self.bodies.len() as u32);
            let body = Body { function, module: number };
            if function.linkage == Linkage::Private {
                self.bodies.push(body);
                self.own().map(|own| own.names.insert(function.name.clone(), symbol));
                continue;
            }
            match shown.get_mut(function.name.as_str()) {
                None => {
                    shown.insert(&function.name, Shown { symbol, linkage: visibility(function.linkage) });
                    self.bodies.push(body);
                }
                Some(first) => match (second(first.linkage, visibility(function.linkage)), &first.symbol) {
                    (Second::Ignored, _) => {}
                    (Second::Replaces, Symbol::Function(at)) => {
                        // It keeps the number, which others already know.
                        self.bodies[*at as usize] = body;
                        first.linkage = visibility(function.linkage);
                    }
                    _ => return Err(twice(function)),
                },
            }
        }
        Ok(())
    }

    fn variables(&mut self, module: &'a Module, shown: &mut HashMap<&'a str, Shown>) -> Result<(), CompileError> {
        let number = (self.modules.len() - 1) as u32;
        for variable in &module.variables {
            if variable.ty == crate::ptx::ast::Type::Opaque {
                return Err(declaration_error(variable, "module", "textures, samplers and surfaces are not modelled"));
            }
            let symbol = module_variable(variable, &mut self.lists, "module", number)?;
            let is_dynamic = |index: u32, lists: &VariableLists| lists.shared[index as usize].is_dynamic;
            let private = match symbol {
                Symbol::Shared(index) if is_dynamic(index, &self.lists) => {
                    self.own().map(|own| own.names.insert(variable.name.clone(), symbol));
                    continue;
                }
                _ => variable.linkage == Linkage::Private,
            };
            if private {
                self.own().map(|own| own.names.insert(variable.name.clone(), symbol));
                continue;
            }
            match shown.get_mut(variable.name.as_str()) {
                None => {
                    shown.insert(&variable.name, Shown { symbol, linkage: variable.linkage });
                }
                Some(first) => self.join(variable, symbol, first)?,
            }
        }
        Ok(())
    }

    /// A further declaration of a variable that all see.
    fn join(&mut self, variable: &Variable, symbol: Symbol, first: &mut Shown) -> Result<(), CompileError> {
        let wrong = |reason: &str| Err(declaration_error(variable, "module", reason));
        let (known, new) = match (&first.symbol, &symbol) {
            (Symbol::Variable(known), Symbol::Variable(new)) => (*known, *new),
            (Symbol::Shared(_), Symbol::Shared(_)) => match second(first.linkage, variable.linkage) {
                Second::Twice => return wrong("the variable is defined in two modules"),
                // The list keeps what nobody names: only what a kernel uses takes room.
                Second::Ignored => return Ok(()),
                Second::Replaces => {
                    *first = Shown { symbol, linkage: variable.linkage };
                    return Ok(());
                }
            },
            _ => return wrong("the name stands for something else in another module"),
        };
        let size = |at: u32| self.lists.variables[at as usize].bytes;
        let replaces = match (first.linkage, variable.linkage) {
            (Linkage::Extern, Linkage::Extern) => false,
            (Linkage::Extern, _) => true,
            (_, Linkage::Extern) => false,
            (Linkage::Common, Linkage::Common) => size(new) > size(known),
            (first, other) => match second(first, other) {
                Second::Twice => return wrong("the variable is defined in two modules"),
                Second::Replaces => true,
                Second::Ignored => false,
            },
        };
        // The new one is the last of the list: it leaves again, and takes the first one's place where it replaces it.
        let Some(new) = self.lists.variables.pop() else { return Ok(()) };
        if replaces {
            self.lists.variables[known as usize] = new;
            first.linkage = variable.linkage;
        }
        Ok(())
    }
}

/// A body that was declared `.extern` is seen like a visible one.
fn visibility(linkage: Linkage) -> Linkage {
    if linkage == Linkage::Extern { Linkage::Visible } else { linkage }
}

fn architecture(module: &Module) -> u32 {
    let digits = |name: &String| name.strip_prefix("sm_").map(|rest| rest.trim_end_matches(['a', 'f']).to_owned());
    module.targets.iter().find_map(digits).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// The letter behind the architecture: `a` for an architecture's own features, `f` for its family's.
fn features(module: &Module) -> Option<char> {
    let name = module.targets.iter().find(|name| name.starts_with("sm_"))?;
    name.chars().last().filter(char::is_ascii_alphabetic)
}
