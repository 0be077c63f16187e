//! What stands in the body of a function.

use super::super::ast::{Block, Call, Guard, Instruction, Linkage, SourceLine, Space, Statement};
use super::{MAX_SCOPES, Parsed, Parser, TokenKind};

impl Parser<'_> {
    /// `{ … }`; `depth` scopes are around it.
    pub(super) fn block(&mut self, depth: u32) -> Parsed<Block> {
        if depth == MAX_SCOPES {
            return Err(self.error(format!("more than {MAX_SCOPES} scopes inside each other")));
        }
        let open = self.token;
        self.expect("{")?;
        let mut statements = Vec::new();
        while !self.sees("}") {
            match self.token.kind {
                TokenKind::Symbol("{") => statements.push(Statement::Block(self.block(depth + 1)?)),
                TokenKind::Symbol("@") => {
                    let line = self.token.line;
                    let guard = self.guard()?;
                    let opcode = self.expect_word("an opcode")?;
                    statements.push(self.instruction(Some(guard), opcode, line)?);
                }
                TokenKind::Word(word) => {
                    let line = self.advance()?.line;
                    let statement = if self.accept(":")? {
                        self.labelled(word, line)?
                    } else {
                        self.instruction(None, word, line)?
                    };
                    statements.push(statement);
                }
                TokenKind::Dotted(directive) => self.directive(directive, &mut statements)?,
                TokenKind::End => return Err(self.error_at(&open, "this scope is never closed: expected `}`")),
                _ => return Err(self.expected("an instruction, a label, a directive or `}`")),
            }
        }
        self.advance()?;
        Ok(Block { statements })
    }

    /// A directive of a body.
    fn directive(&mut self, directive: &str, statements: &mut Vec<Statement>) -> Parsed<()> {
        let space = match self.token.kind {
            TokenKind::Dotted("reg") => Space::Register,
            TokenKind::Dotted("local") => Space::Local,
            TokenKind::Dotted("shared") => Space::Shared,
            TokenKind::Dotted("param") => Space::Param,
            TokenKind::Dotted("global") => Space::Global,
            TokenKind::Dotted("const") => Space::Const,
            _ => {
                match directive {
                    "loc" => statements.push(self.location()?),
                    "pragma" => {
                        let pragmas = self.pragma()?;
                        statements.extend(pragmas.iter().map(|&pragma| Statement::Pragma(pragma.to_owned())));
                    }
                    "branchtargets" | "calltargets" | "callprototype" => {
                        return Err(
                            self.error(format!("`.{directive}` needs a label before it (`name: .{directive} …`)"))
                        );
                    }
                    _ => return Err(self.error(format!("unknown directive `.{directive}` in a function"))),
                }
                return Ok(());
            }
        };
        self.advance()?;
        self.variables(Linkage::Private, space, &mut |variable| statements.push(Statement::Variable(variable)))
    }

    /// `.loc file line column{, function_name label{+offset}, inlined_at file line column}`.
    ///
    /// Of inlined code, the position in the inlined function counts: that is the line which a reader wants to see.
    fn location(&mut self) -> Parsed<Statement> {
        self.advance()?;
        let location = self.position()?;
        if self.accept(",")? {
            self.expect_keyword("function_name")?;
            match self.token.kind {
                TokenKind::Word(_) | TokenKind::Dotted(_) => self.advance()?,
                _ => return Err(self.expected("a label of the string section")),
            };
            if self.accept("+")? {
                self.constant_integer("an offset in the string section")?;
            }
            self.expect(",")?;
            self.expect_keyword("inlined_at")?;
            self.position()?;
        }
        self.source = Some(location);
        Ok(Statement::Location(location))
    }

    fn position(&mut self) -> Parsed<SourceLine> {
        let file = self.expect_u32("the index of a file")?;
        let line = self.expect_u32("a line")?;
        let column = self.expect_u32("a column")?;
        Ok(SourceLine { file, line, column })
    }

    fn expect_keyword(&mut self, keyword: &str) -> Parsed<()> {
        if self.token.kind != TokenKind::Word(keyword) {
            return Err(self.expected(&format!("`{keyword}`")));
        }
        self.advance()?;
        Ok(())
    }

    /// What follows `name:`, if it belongs to the name; else the label by itself.
    fn labelled(&mut self, name: &str, line: u32) -> Parsed<Statement> {
        let name = name.to_owned();
        let statement = match self.token.kind {
            TokenKind::Dotted("branchtargets") => {
                self.advance()?;
                Statement::BranchTargets { name, labels: self.labels()?, line }
            }
            TokenKind::Dotted("calltargets") => {
                self.advance()?;
                Statement::CallTargets { name, functions: self.words("a function")?, line }
            }
            TokenKind::Dotted("callprototype") => {
                self.advance()?;
                self.call_prototype(name, line)?
            }
            _ => return Ok(Statement::Label { name, line }),
        };
        self.expect(";")?;
        Ok(statement)
    }

    /// `a, b, c<3>`: the last stands for `c0, c1, c2`.
    fn labels(&mut self) -> Parsed<Vec<String>> {
        let mut labels = Vec::new();
        loop {
            let label = self.expect_word("a label")?;
            match self.name_count()? {
                Some(count) => {
                    self.take_names(count)?;
                    labels.extend((0..count).map(|index| format!("{label}{index}")));
                }
                None => labels.push(label.to_owned()),
            }
            if !self.accept(",")? {
                return Ok(labels);
            }
        }
    }

    /// `{(returns)} _ {(params)} {.noreturn} {.abi_preserve n} {.abi_preserve_control n}`.
    ///
    /// How many registers a callee preserves is the assembler's matter and has no meaning here.
    fn call_prototype(&mut self, name: String, line: u32) -> Parsed<Statement> {
        let returns = if self.sees("(") { self.params()? } else { Vec::new() };
        self.expect_word("`_` or a name in the prototype")?;
        let params = if self.sees("(") { self.params()? } else { Vec::new() };
        let mut no_return = false;
        while let TokenKind::Dotted(directive) = self.token.kind {
            match directive {
                "noreturn" => {
                    self.advance()?;
                    no_return = true;
                }
                "abi_preserve" | "abi_preserve_control" => {
                    self.advance()?;
                    self.expect_u32("a number of registers")?;
                }
                _ => return Err(self.error(format!("unknown directive `.{directive}` of a call prototype"))),
            }
        }
        Ok(Statement::CallPrototype { name, returns, params, no_return, line })
    }

    /// `@p` or `@!p`.
    fn guard(&mut self) -> Parsed<Guard> {
        self.expect("@")?;
        let negated = self.accept("!")?;
        let register = self.expect_word("a predicate register")?.to_owned();
        Ok(Guard { register, negated })
    }

    /// An instruction after its opcode.
    fn instruction(&mut self, guard: Option<Guard>, opcode: &str, line: u32) -> Parsed<Statement> {
        let mut modifiers = Vec::new();
        while let TokenKind::Dotted(modifier) = self.token.kind {
            modifiers.push(modifier.to_owned());
            self.advance()?;
        }
        let (mut operands, mut call) = (Vec::new(), None);
        if opcode == "call" {
            call = Some(Box::new(self.call()?));
        } else if !self.sees(";") {
            operands.push(self.operand(0)?);
            while self.accept(",")? {
                operands.push(self.operand(0)?);
            }
        }
        if !self.accept(";")? {
            return Err(self.expected(if opcode == "call" { "`;`" } else { "`,` or `;` after an operand" }));
        }
        let opcode = opcode.to_owned();
        Ok(Statement::Instruction(Instruction { guard, opcode, modifiers, operands, call, line, source: self.source }))
    }

    /// `{(returns),} target{, (arguments)}{, prototype}`.
    fn call(&mut self) -> Parsed<Call> {
        let mut returns = Vec::new();
        if self.sees("(") {
            returns = self.operands_in_parentheses()?;
            self.expect(",")?;
        }
        let target = self.expect_word("a function or a register that holds its address")?.to_owned();
        let (mut arguments, mut prototype) = (Vec::new(), None);
        let mut more = self.accept(",")?;
        if more && self.sees("(") {
            arguments = self.operands_in_parentheses()?;
            more = self.accept(",")?;
        }
        if more {
            prototype = Some(self.expect_word("the label of a prototype or of call targets")?.to_owned());
        }
        Ok(Call { returns, target, arguments, prototype })
    }
}
