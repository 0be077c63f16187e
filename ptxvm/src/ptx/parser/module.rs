//! The header of a text, and what stands at module scope.

use super::super::ast::{Function, Linkage, Module, Space, Variable};
use super::{Parsed, Parser, TokenKind};

impl Parser<'_> {
    pub(super) fn module(mut self) -> Parsed<Module> {
        let version = self.version()?;
        self.expect_dotted("target")?;
        let targets = self.words("an architecture such as `sm_80`")?;
        let address_size = self.address_size()?;
        let mut items = Items::default();
        while self.token.kind != TokenKind::End {
            self.item(&mut items)?;
        }
        Ok(Module {
            version,
            targets,
            address_size,
            variables: items.variables,
            functions: items.functions,
            aliases: items.aliases,
            files: self.files,
        })
    }

    /// `.version major.minor`: the lexer takes the pair for a decimal number, so its text is what counts.
    fn version(&mut self) -> Parsed<(u32, u32)> {
        self.expect_dotted("version")?;
        let written = &self.text[self.token.start..self.token.end];
        let version = match (self.token.kind, written.split_once('.')) {
            (TokenKind::Number(_), Some((major, minor))) => major.parse().ok().zip(minor.parse().ok()),
            _ => None,
        };
        let version = version.ok_or_else(|| self.expected("a version such as `8.7`"))?;
        self.advance()?;
        Ok(version)
    }

    /// `.address_size`. Without it the manual says 32, but every text of today that leaves it out means 64.
    fn address_size(&mut self) -> Parsed<u32> {
        if !self.accept_dotted("address_size")? {
            return Ok(64);
        }
        let token = self.token;
        match self.expect_u32("an address size")? {
            64 => Ok(64),
            32 => Err(self.error_at(&token, "`.address_size 32` is not supported: compile for 64-bit addresses")),
            other => Err(self.error_at(&token, format!("expected an address size of 64, found {other}"))),
        }
    }

    fn item(&mut self, items: &mut Items) -> Parsed<()> {
        let TokenKind::Dotted(directive) = self.token.kind else {
            return Err(self.expected("a directive of module scope (`.entry`, `.func`, `.global`, …)"));
        };
        let line = self.token.line;
        match directive {
            "file" => self.file(),
            "section" => self.section(),
            // Hints to the assembler, without a meaning of their own at module scope.
            "pragma" => self.pragma().map(drop),
            "alias" => {
                self.advance()?;
                let alias = self.expect_word("the name of a function")?.to_owned();
                self.expect(",")?;
                let aliasee = self.expect_word("the name of a function")?.to_owned();
                self.expect(";")?;
                items.aliases.push((alias, aliasee));
                Ok(())
            }
            "version" | "target" | "address_size" => {
                const ORDER: &str = "`.version`, `.target`, `.address_size`";
                Err(self.error(format!("`.{directive}` belongs to the start of the text, once, in the order {ORDER}")))
            }
            _ => {
                let linkage = self.linkage()?;
                self.symbol(linkage, line, items)
            }
        }
    }

    /// `.extern`, `.visible`, `.weak`, `.common` or nothing.
    fn linkage(&mut self) -> Parsed<Linkage> {
        let linkage = match self.token.kind {
            TokenKind::Dotted("extern") => Linkage::Extern,
            TokenKind::Dotted("visible") => Linkage::Visible,
            TokenKind::Dotted("weak") => Linkage::Weak,
            TokenKind::Dotted("common") => Linkage::Common,
            _ => return Ok(Linkage::Private),
        };
        self.advance()?;
        Ok(linkage)
    }

    /// A function or a variable, after its linkage.
    fn symbol(&mut self, linkage: Linkage, line: u32, items: &mut Items) -> Parsed<()> {
        let TokenKind::Dotted(directive) = self.token.kind else {
            return Err(self.expected("`.entry`, `.func` or a state space"));
        };
        let space = match directive {
            "entry" | "func" => {
                self.advance()?;
                items.functions.push(self.function(linkage, directive == "entry", line)?);
                return Ok(());
            }
            "global" => Space::Global,
            "const" => Space::Const,
            "shared" => Space::Shared,
            "tex" => Space::Texture,
            "reg" | "local" | "param" | "sreg" => {
                return Err(self.error(format!("`.{directive}` may not be declared at module scope")));
            }
            _ => return Err(self.error(format!("unknown directive `.{directive}` at module scope"))),
        };
        self.advance()?;
        self.variables(linkage, space, &mut |variable| items.variables.push(variable))
    }

    /// `.section name { … }`: debug information, skipped to its closing brace.
    fn section(&mut self) -> Parsed<()> {
        let start = self.advance()?;
        match self.token.kind {
            TokenKind::Dotted(_) | TokenKind::Word(_) | TokenKind::Text(_) => self.advance()?,
            _ => return Err(self.expected("the name of a section")),
        };
        self.expect("{")?;
        while !self.sees("}") {
            match self.token.kind {
                TokenKind::End => return Err(self.error_at(&start, "this section is never closed: expected `}`")),
                TokenKind::Symbol("{") => return Err(self.expected("data or the section's closing `}`")),
                _ => self.advance()?,
            };
        }
        self.advance()?;
        Ok(())
    }
}

/// What a module holds, as it is read.
#[derive(Default)]
struct Items {
    variables: Vec<Variable>,
    functions: Vec<Function>,
    aliases: Vec<(String, String)>,
}
