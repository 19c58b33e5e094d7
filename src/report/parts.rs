//! What all pages have: styles, head, cards, facts, and how text and times are written.

use schema::Picos;
use std::fmt::Write;

const STYLE: &str = "
:root{--ink:#1c2430;--soft:#64707f;--paper:#fbfbfa;--card:#fff;--line:#e3e6ea;--good:#0b7a5a;--warn:#9a6700;--bad:#b3261e;
--s0:#2457c5;--s1:#d2641e;--s2:#0b7a5a;--s3:#8a3ab9;--s4:#a3123f;--s5:#5b6b00}
@media(prefers-color-scheme:dark){:root{--ink:#e8ebef;--soft:#98a3b0;--paper:#12161b;--card:#1a2027;--line:#2d353f;--good:#4cc79d;
--warn:#e0b050;--bad:#f2867f;--s0:#7aa2ff;--s1:#ff9a5c;--s2:#4cc79d;--s3:#c793ee;--s4:#ff7aa0;--s5:#c3d04a}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1060px;margin:0 auto;padding:32px 20px 64px}h1{font-size:28px;margin:0 0 4px;overflow-wrap:anywhere}h2{font-size:19px;margin:40px 0 12px}.card p{margin:0 0 8px}
.lead{color:var(--soft);margin:0}.hero{display:flex;flex-wrap:wrap;gap:14px;margin:22px 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 18px}.hero .card{flex:1 1 170px}
.big{font-size:30px;font-weight:650;letter-spacing:-.02em}.good{color:var(--good)}.warn{color:var(--warn)}.bad{color:var(--bad)}.soft{color:var(--soft)}
tr.head{vertical-align:bottom}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}th{font-weight:600;color:var(--soft);font-size:13px}
th,td{text-align:left;padding:6px 10px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}td.n,th.n{text-align:right;white-space:nowrap}
.wide{overflow-x:auto}code{font:12.5px/1.45 ui-monospace,monospace;overflow-wrap:anywhere}
.wide tr:last-child td{border-bottom:0}.ends{display:flex;justify-content:space-between;font-size:12.5px}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(340px,100%),1fr));gap:14px}.charts h3{font-size:14px;margin:0 0 6px}
svg{width:100%;height:auto;display:block}.spark{height:90px}.spark .line{vector-effect:non-scaling-stroke;stroke-width:1.2}.grid{vector-effect:non-scaling-stroke}.grid{stroke:var(--line)}.tick,.axis{fill:var(--soft);font:11px system-ui,sans-serif}
.line{fill:none;stroke-width:2}.dashed{stroke-dasharray:5 4}.dot.dashed{stroke-dasharray:none;fill:var(--card)}.dot{stroke-width:2}
.c0{stroke:var(--s0)}.c1{stroke:var(--s1)}.c2{stroke:var(--s2)}.c3{stroke:var(--s3)}.c4{stroke:var(--s4)}.c5{stroke:var(--s5)}
circle.c0{fill:var(--s0)}circle.c1{fill:var(--s1)}circle.c2{fill:var(--s2)}circle.c3{fill:var(--s3)}circle.c4{fill:var(--s4)}circle.c5{fill:var(--s5)}
.key{display:inline-block;width:18px;border-top:2px solid;vertical-align:middle;margin-right:5px}.key.dashed{border-top-style:dashed}
.legend{font-size:12.5px;color:var(--soft);display:flex;flex-wrap:wrap;gap:4px 16px;margin-top:6px}
.k0{color:var(--s0)}.k1{color:var(--s1)}.k2{color:var(--s2)}.k3{color:var(--s3)}.k4{color:var(--s4)}.k5{color:var(--s5)}
.bar{height:8px;border-radius:4px;background:var(--line);min-width:90px;overflow:hidden}.bar i{display:block;height:100%;background:var(--s0)}
.bar+.bar{margin-top:3px}.bar.plain{background:none}.bar.plain i{border-radius:4px}.bar .was{background:var(--soft);opacity:.5}td.bars{min-width:150px;padding-top:12px}
@media(max-width:980px){.wide table,.wide tbody,.wide tr{display:block}.wide tr.head{display:none}.wide tr+tr{padding:10px 0;border-bottom:1px solid var(--line)}
.wide tr:last-child{border-bottom:0}.wide td,.wide td.n{display:flex;justify-content:space-between;gap:14px;border:0;padding:2px 0;text-align:right}
.wide td::before{content:attr(data-l);color:var(--soft);flex:none}.wide td.full{display:block;text-align:left}.wide td.full::before{display:none}
.wide td.bars{display:block}.wide td.bars::before{display:none}main{padding:20px 14px 48px}.card{padding:12px 14px}}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 18px;margin:0}dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}";

/// The document up to and with its heading. `style` is added to the common one.
pub fn head(out: &mut String, title: &str, what: &str, lead: &str, style: &str) {
    let (title, lead) = (escape(title), escape(lead));
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>{title} {what}</title><style>{STYLE}{style}</style></head><body><main><h1>{title}</h1><p class=\"lead\">{lead}</p>"
    );
}

/// A row of cards: a figure, its class, and what it counts.
pub fn cards(out: &mut String, cards: &[(String, &str, String)]) {
    out.push_str("<div class=\"hero\">");
    for (big, class, text) in cards {
        let _ = write!(out, "<div class=\"card\"><div class=\"big {class}\">{big}</div><div class=\"soft\">{text}</div></div>");
    }
    out.push_str("</div>");
}

/// Names and values, in their order.
pub fn facts(out: &mut String, title: &str, facts: &[(String, String)]) {
    let _ = write!(out, "<h2>{title}</h2><div class=\"card\"><dl>");
    for (name, value) in facts {
        let _ = write!(out, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
    }
    out.push_str("</dl></div>");
}

/// Three digits and a unit.
pub fn time(time: Picos) -> String {
    let seconds = time.as_secs_f64();
    let (scaled, unit) = if seconds >= 1.0 {
        (seconds, "s")
    } else if seconds >= 1e-3 {
        (seconds * 1e3, "ms")
    } else {
        (seconds * 1e6, "µs")
    };
    if scaled >= 10.0 { format!("{scaled:.1} {unit}") } else { format!("{scaled:.2} {unit}") }
}

/// Text for HTML: the five characters that mean something there, and control and bidirectional characters made visible.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                out.extend(c.escape_default())
            }
            c => out.push(c),
        }
    }
    out
}
