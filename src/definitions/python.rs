//! SQL expressions as a small Python function, so that Feast's own SDK can compute an on demand view
//! that was defined without Python. thali itself evaluates the expressions; this text is the best
//! translation there is, and raises where there is none.

use std::{collections::BTreeMap, fmt::Write as _};

use datafusion::sql::sqlparser::{
    ast::{
        BinaryOperator, CaseWhen, DataType, Expr, FunctionArg, FunctionArgExpr, FunctionArguments,
        UnaryOperator, Value,
    },
    dialect::GenericDialect,
    parser::Parser,
};

/// Functions that are called the same way: SQL's name and Python's.
const FUNCTIONS: [(&str, &str); 32] = [
    ("abs", "abs"),
    ("acos", "math.acos"),
    ("asin", "math.asin"),
    ("atan", "math.atan"),
    ("atan2", "math.atan2"),
    ("ceil", "math.ceil"),
    ("char_length", "len"),
    ("character_length", "len"),
    ("cos", "math.cos"),
    ("degrees", "math.degrees"),
    ("exp", "math.exp"),
    ("floor", "math.floor"),
    ("greatest", "max"),
    ("isnan", "math.isnan"),
    ("least", "min"),
    ("length", "len"),
    ("ln", "math.log"),
    ("log10", "math.log10"),
    ("log2", "math.log2"),
    ("lower", "str.lower"),
    ("ltrim", "str.lstrip"),
    ("pow", "pow"),
    ("power", "pow"),
    ("radians", "math.radians"),
    ("round", "round"),
    ("rtrim", "str.rstrip"),
    ("sin", "math.sin"),
    ("sqrt", "math.sqrt"),
    ("tan", "math.tan"),
    ("trim", "str.strip"),
    ("trunc", "math.trunc"),
    ("upper", "str.upper"),
];

/// A Python identifier for a view's name.
pub(super) fn function_name(view: &str) -> String {
    let mut name: String = view
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '_' {
                c
            } else {
                '_'
            }
        })
        .collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        name.insert(0, '_');
    }
    name
}

/// The function's source: a dictionary of lists in, a dictionary of lists out.
pub(super) fn function(view: &str, expressions: &BTreeMap<String, String>) -> String {
    let mut out = format!("def {}(inputs):\n", function_name(view));
    out.push_str("    import math\n\n");
    out.push_str("    def compute(formula):\n");
    out.push_str("        result = []\n");
    out.push_str("        for values in zip(*inputs.values()):\n");
    out.push_str("            try:\n");
    out.push_str("                result.append(formula(dict(zip(inputs, values))))\n");
    out.push_str("            except (TypeError, ValueError, ZeroDivisionError):\n");
    out.push_str("                result.append(None)\n");
    out.push_str("        return result\n\n");
    out.push_str("    def untranslated(expression):\n");
    out.push_str("        raise NotImplementedError(f\"only thali computes this: {expression}\")\n\n");
    out.push_str("    return {\n");
    for (output, text) in expressions {
        let translated = translate_text(text).unwrap_or_else(|| format!("untranslated({})", quote(text)));
        // Writing to a string cannot fail.
        let _infallible = writeln!(
            out,
            "        {}: compute(lambda row: {translated}),",
            quote(output)
        );
    }
    out.push_str("    }\n");
    out
}

fn translate_text(text: &str) -> Option<String> {
    let parser = Parser::new(&GenericDialect {});
    let expression = parser.try_with_sql(text).ok()?.parse_expr().ok()?;
    translate(&expression)
}

fn translate(expression: &Expr) -> Option<String> {
    Some(match expression {
        Expr::Identifier(name) => format!("row[{}]", quote(&name.value)),
        Expr::Nested(inner) => format!("({})", translate(inner)?),
        Expr::Value(value) => literal(&value.value)?,
        Expr::UnaryOp { op, expr } => {
            let inner = translate(expr)?;
            match op {
                UnaryOperator::Minus => format!("-{inner}"),
                UnaryOperator::Plus => inner,
                UnaryOperator::Not => format!("not {inner}"),
                _ => return None,
            }
        }
        Expr::BinaryOp { left, op, right } => {
            format!("{} {} {}", translate(left)?, operator(op)?, translate(right)?)
        }
        Expr::IsNull(inner) => format!("({} is None)", translate(inner)?),
        Expr::IsNotNull(inner) => format!("({} is not None)", translate(inner)?),
        Expr::Between {
            expr,
            negated,
            low,
            high,
        } => {
            let inside = format!(
                "{} <= {} <= {}",
                translate(low)?,
                translate(expr)?,
                translate(high)?
            );
            if *negated {
                format!("not ({inside})")
            } else {
                format!("({inside})")
            }
        }
        Expr::InList { expr, list, negated } => {
            let items: Vec<String> = list.iter().map(translate).collect::<Option<_>>()?;
            let word = if *negated { "not in" } else { "in" };
            format!("({} {word} [{}])", translate(expr)?, items.join(", "))
        }
        Expr::Cast { expr, data_type, .. } => cast(&translate(expr)?, data_type)?,
        Expr::Floor { expr, .. } => format!("math.floor({})", translate(expr)?),
        Expr::Ceil { expr, .. } => format!("math.ceil({})", translate(expr)?),
        Expr::Case {
            operand,
            conditions,
            else_result,
            ..
        } => case(operand.as_deref(), conditions, else_result.as_deref())?,
        Expr::Function(function) => {
            let FunctionArguments::List(list) = &function.args else {
                return None;
            };
            let arguments: Vec<String> = list
                .args
                .iter()
                .map(|argument| match argument {
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(inner)) => translate(inner),
                    _ => None,
                })
                .collect::<Option<_>>()?;
            call(&function.name.to_string().to_lowercase(), &arguments)?
        }
        _ => return None,
    })
}

fn operator(op: &BinaryOperator) -> Option<&'static str> {
    Some(match op {
        BinaryOperator::Plus => "+",
        BinaryOperator::Minus => "-",
        BinaryOperator::Multiply => "*",
        BinaryOperator::Divide => "/",
        BinaryOperator::Modulo => "%",
        BinaryOperator::Gt => ">",
        BinaryOperator::Lt => "<",
        BinaryOperator::GtEq => ">=",
        BinaryOperator::LtEq => "<=",
        BinaryOperator::Eq => "==",
        BinaryOperator::NotEq => "!=",
        BinaryOperator::And => "and",
        BinaryOperator::Or => "or",
        BinaryOperator::StringConcat => "+",
        _ => return None,
    })
}

fn literal(value: &Value) -> Option<String> {
    Some(match value {
        Value::Number(number, _) => number.clone(),
        Value::SingleQuotedString(text) => quote(text),
        Value::Boolean(true) => "True".to_owned(),
        Value::Boolean(false) => "False".to_owned(),
        Value::Null => "None".to_owned(),
        _ => return None,
    })
}

fn cast(inner: &str, data_type: &DataType) -> Option<String> {
    let name = data_type.to_string().to_uppercase();
    let word = name.split(['(', ' ']).next().unwrap_or_default();
    let function = match word {
        "DOUBLE" | "FLOAT" | "REAL" | "FLOAT4" | "FLOAT8" => "float",
        "INT" | "INTEGER" | "BIGINT" | "SMALLINT" | "TINYINT" | "INT4" | "INT8" => "int",
        "VARCHAR" | "TEXT" | "STRING" | "CHAR" => "str",
        "BOOLEAN" | "BOOL" => "bool",
        _ => return None,
    };
    Some(format!("{function}({inner})"))
}

fn case(operand: Option<&Expr>, conditions: &[CaseWhen], otherwise: Option<&Expr>) -> Option<String> {
    let mut out = otherwise.map_or(Some("None".to_owned()), translate)?;
    for when in conditions.iter().rev() {
        let mut condition = translate(&when.condition)?;
        if let Some(operand) = operand {
            condition = format!("{} == {condition}", translate(operand)?);
        }
        out = format!("({} if {condition} else {out})", translate(&when.result)?);
    }
    Some(out)
}

fn call(name: &str, arguments: &[String]) -> Option<String> {
    let list = arguments.join(", ");
    Some(match (name, arguments) {
        ("coalesce" | "nvl" | "ifnull", _) => {
            format!("next((value for value in [{list}] if value is not None), None)")
        }
        ("nullif", [left, right]) => format!("(None if {left} == {right} else {left})"),
        ("concat", _) => format!("\"\".join(str(value) for value in [{list}] if value is not None)"),
        ("pi", []) => "math.pi".to_owned(),
        _ => {
            let (_, python) = FUNCTIONS.iter().find(|(sql, _)| *sql == name)?;
            format!("{python}({list})")
        }
    })
}

/// A Python string literal; JSON's escapes are Python's.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_and_functions_are_translated() {
        for (sql, python) in [
            ("(temp - 32.0) * 5.0 / 9.0", "(row[\"temp\"] - 32.0) * 5.0 / 9.0"),
            (
                "abs(wind_speed * sin(radians(wind_dir - heading)))",
                "abs(row[\"wind_speed\"] * math.sin(math.radians(row[\"wind_dir\"] - row[\"heading\"])))",
            ),
            (
                "coalesce(a, 0)",
                "next((value for value in [row[\"a\"], 0] if value is not None), None)",
            ),
            (
                "CASE WHEN a > 1 AND b IS NULL THEN 'x' ELSE 'y' END",
                "(\"x\" if row[\"a\"] > 1 and (row[\"b\"] is None) else \"y\")",
            ),
            ("cast(\"A b\" as double)", "float(row[\"A b\"])"),
            ("a in (1, 2) or not b", "(row[\"a\"] in [1, 2]) or not row[\"b\"]"),
        ] {
            assert_eq!(translate_text(sql).unwrap(), python);
        }
        assert_eq!(translate_text("regexp_match(a, 'x')"), None);
        assert_eq!(translate_text("a +"), None);
    }

    #[test]
    fn a_view_becomes_one_function() {
        let expressions = BTreeMap::from([
            ("double".to_owned(), "a * 2".to_owned()),
            ("odd".to_owned(), "regexp_match(a, 'x')".to_owned()),
        ]);
        let text = function("my-view", &expressions);
        assert!(text.starts_with("def my_view(inputs):\n"), "{text}");
        assert!(
            text.contains("\"double\": compute(lambda row: row[\"a\"] * 2),"),
            "{text}"
        );
        assert!(
            text.contains("\"odd\": compute(lambda row: untranslated(\"regexp_match(a, 'x')\")),"),
            "{text}"
        );
    }
}
