//! Owns the picture: blocks as boxes, their parents as lines, losses as dots. Plain SVG.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use blyan_core::{BlockHash, Chain, ParentRole};

const WIDTH: f64 = 148.0;
const HEIGHT: f64 = 42.0;
/// From one column, and one row, to the next.
const PITCH: (f64, f64) = (178.0, 62.0);
const MARGIN: (f64, f64) = (24.0, 64.0);

/// What a box or dot is, by its colour.
#[derive(Clone, Copy)]
pub(crate) enum Look {
    Weights,
    Evidence,
    Accepted,
    Refused,
}

impl Look {
    /// Of the surface and of the border.
    fn colours(self) -> (&'static str, &'static str) {
        match self {
            Self::Weights => ("#e3ecf7", "#3566a8"),
            Self::Evidence => ("#f3f1ea", "#8a8470"),
            Self::Accepted => ("#e2f1e3", "#2f7d3b"),
            Self::Refused => ("#f8e4e1", "#b3402f"),
        }
    }
}

/// Blocks that are drawn as one box.
pub(crate) struct Node {
    blocks: Vec<BlockHash>,
    title: String,
    detail: String,
    look: Look,
    /// Column and row.
    place: (f64, f64),
}

/// A loss.
pub(crate) struct Dot {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) look: Look,
}

/// Everything that is drawn.
pub(crate) struct Picture {
    title: String,
    nodes: Vec<Node>,
    /// What was chosen because of what, though it is no parent of it.
    pub(crate) follows: Option<(usize, usize)>,
    pub(crate) dots: Vec<Dot>,
    /// The largest loss that is good enough.
    pub(crate) limit: f64,
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

impl Picture {
    pub(crate) fn new(title: &str) -> Self {
        Self { title: title.to_owned(), nodes: Vec::new(), follows: None, dots: Vec::new(), limit: 0.0 }
    }

    /// Adds a box and returns its number.
    pub(crate) fn node(
        &mut self,
        blocks: Vec<BlockHash>,
        title: impl Into<String>,
        detail: impl Into<String>,
        look: Look,
        place: (f64, f64),
    ) -> usize {
        self.nodes.push(Node { blocks, title: title.into(), detail: detail.into(), look, place });
        self.nodes.len() - 1
    }

    /// Parent and child boxes, and whether the child takes the parent's place. Of two boxes that are
    /// connected through others, too, only those others are.
    fn lines(&self, chain: &Chain) -> Result<BTreeMap<(usize, usize), bool>, blyan_core::ChainError> {
        let drawn = self.nodes.iter().enumerate();
        let of: BTreeMap<BlockHash, usize> =
            drawn.flat_map(|(index, node)| node.blocks.iter().map(move |block| (*block, index))).collect();
        let mut lines = BTreeMap::new();
        let mut parents = vec![BTreeSet::new(); self.nodes.len()];
        for (child, node) in self.nodes.iter().enumerate() {
            for block in &node.blocks {
                for parent in &chain.get(block)?.header().parents {
                    if let Some(&index) = of.get(&parent.hash)
                        && index != child
                    {
                        *lines.entry((index, child)).or_insert(false) |=
                            parent.role == ParentRole::Predecessor;
                        parents[child].insert(index);
                    }
                }
            }
        }
        let reaches = |from: usize, to: usize| {
            let mut open: Vec<usize> = parents[to].iter().copied().filter(|parent| *parent != from).collect();
            let mut seen = BTreeSet::new();
            while let Some(node) = open.pop() {
                if node == from {
                    return true;
                }
                if seen.insert(node) {
                    open.extend(&parents[node]);
                }
            }
            false
        };
        lines.retain(|&(from, to), _| !reaches(from, to));
        Ok(lines)
    }

    fn corner(&self, node: usize) -> (f64, f64) {
        let (column, row) = self.nodes[node].place;
        (MARGIN.0 + column * PITCH.0, MARGIN.1 + row * PITCH.1)
    }

    /// From the right side of a box to the left side of another; straight up or down in one column.
    fn curve(&self, from: usize, to: usize) -> String {
        let ((x, y), (to_x, to_y)) = (self.corner(from), self.corner(to));
        if x == to_x {
            let middle = x + WIDTH / 2.0;
            let (from, to) = if y < to_y { (y + HEIGHT, to_y - 5.0) } else { (y, to_y + HEIGHT + 5.0) };
            return format!("M{middle} {from} L{middle} {to}");
        }
        let (x, y, to_x, to_y) = (x + WIDTH, y + HEIGHT / 2.0, to_x - 5.0, to_y + HEIGHT / 2.0);
        let bend = ((to_x - x) / 2.0).clamp(20.0, 90.0);
        format!("M{x} {y} C{} {y} {} {to_y} {to_x} {to_y}", x + bend, to_x - bend)
    }

    pub(crate) fn svg(&self, chain: &Chain) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        let columns = self.nodes.iter().map(|node| node.place.0).fold(0.0, f64::max);
        let rows = self.nodes.iter().map(|node| node.place.1).fold(0.0, f64::max);
        let width = 2.0 * MARGIN.0 + columns * PITCH.0 + WIDTH;
        let lineage_end = MARGIN.1 + rows * PITCH.1 + HEIGHT;
        let height = lineage_end + 190.0;
        let mut svg = String::new();
        writeln!(
            svg,
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-family="system-ui, sans-serif" font-size="12" fill="#22221e">"##
        )?;
        writeln!(svg, r##"<rect width="{width}" height="{height}" fill="#ffffff"/>"##)?;
        for (name, colour) in [("parent", "#a5a294"), ("place", "#3566a8"), ("choice", "#2f7d3b")] {
            writeln!(
                svg,
                r#"<marker id="{name}" markerWidth="7" markerHeight="7" refX="5" refY="3.5" orient="auto"><path d="M0 0 L7 3.5 L0 7 Z" fill="{colour}"/></marker>"#
            )?;
        }
        writeln!(svg, r#"<text x="{}" y="34" font-size="18">{}</text>"#, MARGIN.0, escaped(&self.title))?;
        let legend = [
            ("#a5a294", "a parent"),
            ("#3566a8", "whose place is taken"),
            ("#2f7d3b", "chosen by what validators attest"),
        ];
        for (index, (colour, text)) in legend.into_iter().enumerate() {
            let (x, dash) = (width - 620.0 + 170.0 * index as f64, if index == 2 { "6 4" } else { "none" });
            writeln!(
                svg,
                r#"<path d="M{x} 30 L{} 30" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/><text x="{}" y="34">{text}</text>"#,
                x + 26.0,
                x + 32.0
            )?;
        }
        for ((from, to), place) in self.lines(chain)? {
            let (name, colour) = if place { ("place", "#3566a8") } else { ("parent", "#a5a294") };
            let curve = self.curve(from, to);
            writeln!(
                svg,
                r#"<path d="{curve}" fill="none" stroke="{colour}" stroke-width="1.4" marker-end="url(#{name})"/>"#
            )?;
        }
        if let Some((from, to)) = self.follows {
            let curve = self.curve(from, to);
            writeln!(
                svg,
                r##"<path d="{curve}" fill="none" stroke="#2f7d3b" stroke-width="2" stroke-dasharray="6 4" marker-end="url(#choice)"/>"##
            )?;
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let ((x, y), (surface, border)) = (self.corner(index), node.look.colours());
            writeln!(
                svg,
                r#"<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{surface}" stroke="{border}" stroke-width="1.4"/>"#
            )?;
            let middle = x + WIDTH / 2.0;
            for (text, down, size, weight) in [(&node.title, 17.0, 13, 600), (&node.detail, 33.0, 11, 400)] {
                writeln!(
                    svg,
                    r#"<text x="{middle}" y="{}" text-anchor="middle" font-size="{size}" font-weight="{weight}">{}</text>"#,
                    y + down,
                    escaped(text)
                )?;
            }
        }
        self.losses(&mut svg, width, lineage_end + 44.0)?;
        writeln!(svg, "</svg>")?;
        Ok(svg)
    }

    /// Losses on one axis; what is far above the base is drawn at its end, with its number.
    fn losses(&self, svg: &mut String, width: f64, top: f64) -> std::fmt::Result {
        let Some(base) = self.dots.first().map(|dot| dot.value) else { return Ok(()) };
        let least = self.dots.iter().map(|dot| dot.value).fold(self.limit, f64::min);
        let most = base + (base - least) * 0.5;
        let (left, right) = (MARGIN.0 + 80.0, width - MARGIN.0 - 90.0);
        let x = |value: f64| left + (value.min(most) - least) / (most - least) * (right - left);
        let axis = top + 60.0;
        writeln!(
            svg,
            r#"<text x="{}" y="{top}" font-size="14" font-weight="600">Loss on the split, in nats a token: lower is better</text>"#,
            MARGIN.0
        )?;
        writeln!(svg, r##"<path d="M{left} {axis} L{right} {axis}" stroke="#a5a294"/>"##)?;
        let limit = x(self.limit);
        writeln!(
            svg,
            r##"<path d="M{limit} {} L{limit} {}" stroke="#2f7d3b" stroke-dasharray="4 3"/><text x="{limit}" y="{}" text-anchor="middle" fill="#2f7d3b">good enough: {:.4}</text>"##,
            axis - 24.0,
            axis + 24.0,
            axis - 30.0,
            self.limit
        )?;
        let mut dots: Vec<&Dot> = self.dots.iter().collect();
        dots.sort_by(|a, b| a.value.total_cmp(&b.value));
        for (index, dot) in dots.into_iter().enumerate() {
            let (x, (_, colour)) = (x(dot.value), dot.look.colours());
            // Names of neighbours do not cover each other.
            let y = axis + if index % 2 == 0 { 26.0 } else { 44.0 };
            let beyond = if dot.value > most { " →" } else { "" };
            writeln!(
                svg,
                r#"<circle cx="{x}" cy="{axis}" r="6" fill="{colour}"/><text x="{x}" y="{y}" text-anchor="middle">{} {:.4}{beyond}</text>"#,
                escaped(&dot.name),
                dot.value
            )?;
        }
        Ok(())
    }
}
