//! `.entry` and `.func`: parameters, directives and body.

use super::super::ast::{Function, Linkage, Space, Variable};
use super::{MAX_REGISTERS, Parsed, Parser, TokenKind};

impl Parser<'_> {
    /// A function after `.entry` or `.func`.
    pub(super) fn function(&mut self, linkage: Linkage, is_kernel: bool, line: u32) -> Parsed<Function> {
        self.registers_left = MAX_REGISTERS;
        self.source = None;
        let mut function = Function {
            name: String::new(),
            linkage,
            is_kernel,
            no_return: false,
            returns: Vec::new(),
            params: Vec::new(),
            max_threads: None,
            required_threads: None,
            min_blocks: None,
            max_registers: None,
            other_directives: Vec::new(),
            body: None,
            line,
        };
        // A function's attribute can only say that its address is the same on all devices, which it always is here.
        while self.token.kind == TokenKind::Dotted("attribute") {
            self.attribute()?;
        }
        if self.sees("(") {
            if is_kernel {
                return Err(self.expected("the name of the kernel, which returns nothing"));
            }
            function.returns = self.params()?;
        }
        function.name = self.expect_word("the name of a function")?.to_owned();
        if self.sees("(") {
            function.params = self.params()?;
        }
        self.function_directives(&mut function)?;
        if !self.accept(";")? {
            if !self.sees("{") {
                return Err(self.expected("a directive, a body in braces, or `;`"));
            }
            function.body = Some(self.block(0)?);
        }
        Ok(function)
    }

    /// `( .param .b32 a, … )`.
    pub(super) fn params(&mut self) -> Parsed<Vec<Variable>> {
        let mut params = Vec::new();
        self.expect("(")?;
        while !self.sees(")") {
            if !params.is_empty() {
                self.expect(",")?;
            }
            let space = match self.token.kind {
                TokenKind::Dotted("param") => Space::Param,
                TokenKind::Dotted("reg") => Space::Register,
                _ => return Err(self.expected("a parameter (`.param` or `.reg`)")),
            };
            self.advance()?;
            params.push(self.param(space)?);
        }
        self.advance()?;
        Ok(params)
    }

    /// The directives between parameters and body.
    fn function_directives(&mut self, function: &mut Function) -> Parsed<()> {
        while let TokenKind::Dotted(directive) = self.token.kind {
            match directive {
                "maxntid" => function.max_threads = Some(self.three_sizes()?),
                "reqntid" => function.required_threads = Some(self.three_sizes()?),
                "minnctapersm" => function.min_blocks = Some(self.one_size()?),
                "maxnreg" => function.max_registers = Some(self.one_size()?),
                "noreturn" => {
                    self.advance()?;
                    function.no_return = true;
                }
                "reqnctapercluster" => {
                    let [x, y, z] = self.three_sizes()?;
                    function.other_directives.push(format!(".{directive} {x}, {y}, {z}"));
                }
                "maxnctapersm" | "maxclusterrank" | "abi_preserve" | "abi_preserve_control" => {
                    let size = self.one_size()?;
                    function.other_directives.push(format!(".{directive} {size}"));
                }
                "explicitcluster" | "blocksareclusters" => {
                    self.advance()?;
                    function.other_directives.push(format!(".{directive}"));
                }
                "pragma" => {
                    let pragmas = self.pragma()?;
                    function.other_directives.extend(pragmas.iter().map(|pragma| format!(".pragma \"{pragma}\";")));
                }
                _ => return Err(self.error(format!("unknown directive `.{directive}` of a function"))),
            }
        }
        Ok(())
    }

    fn one_size(&mut self) -> Parsed<u32> {
        self.advance()?;
        self.expect_u32("a number")
    }

    /// One to three numbers; those left out are 1.
    fn three_sizes(&mut self) -> Parsed<[u32; 3]> {
        let mut sizes = [self.one_size()?, 1, 1];
        for size in &mut sizes[1..] {
            if !self.accept(",")? {
                break;
            }
            *size = self.expect_u32("a number")?;
        }
        Ok(sizes)
    }
}
