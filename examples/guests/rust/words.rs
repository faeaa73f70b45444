//! A WASI command: counts the words of its inputs, and tells in /out/result.json what it was given.

use std::collections::BTreeMap;
use std::{env, fs, process};

fn main() {
    let inputs: Vec<String> = env::args().skip(1).collect();
    if inputs.is_empty() {
        eprintln!("usage: words TEXT...");
        process::exit(2);
    }
    let mut counts = BTreeMap::new();
    for word in inputs.iter().flat_map(|text| text.split(|letter: char| !letter.is_alphanumeric())) {
        if !word.is_empty() {
            *counts.entry(word.to_lowercase()).or_insert(0u32) += 1;
        }
    }
    let task = fs::read("/in/task.json").expect("every task has one");
    eprintln!("{} bytes of task, {} different words", task.len(), counts.len());
    let words: Vec<String> = counts.iter().map(|(word, count)| format!("\"{}\": {}", word, count)).collect();
    let site = env::var("SITE").map_or(String::new(), |site| format!("\"site\": {}, ", quoted(&site)));
    let result = format!("{{{}\"words\": {{{}}}}}\n", site, words.join(", "));
    fs::write("/out/result.json", result).expect("/out can be written");
}

/// As JSON.
fn quoted(text: &str) -> String {
    let escaped = text.chars().map(|letter| match letter {
        '"' | '\\' => format!("\\{}", letter),
        letter if letter.is_control() => format!("\\u{:04x}", letter as u32),
        letter => letter.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}
