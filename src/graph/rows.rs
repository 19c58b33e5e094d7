//! A graph without the layouts that only kernels of the host know.

use super::{Graph, ValueId};
use kernels::Layout;

impl Graph {
    /// Lays every value in rows and leaves conversions out: a layout changes where elements lie and not which they are.
    pub fn lay_in_rows(&mut self) {
        let mut same: Vec<ValueId> = (0..self.values.len() as u32).map(ValueId).collect();
        self.values.iter_mut().for_each(|value| value.layout = Layout::Rows);
        self.nodes.retain_mut(|node| {
            node.inputs.iter_mut().flatten().for_each(|id| *id = same[id.index()]);
            let captures = node.bodies.iter_mut().flat_map(|(_, body)| &mut body.captures);
            captures.for_each(|capture| capture.outer = same[capture.outer.index()]);
            match (node.op == kernels::reorder::REORDER.id, node.input(0), node.output(0)) {
                (true, Some(from), Some(to)) => {
                    same[to.index()] = from;
                    false
                }
                _ => true,
            }
        });
        self.outputs.iter_mut().for_each(|id| *id = same[id.index()]);
        self.nodes.iter_mut().flat_map(|node| &mut node.bodies).for_each(|(_, body)| body.lay_in_rows());
    }
}

#[cfg(test)]
mod tests {
    use crate::graph::{text, verify};

    #[test]
    fn conversions_go_and_what_is_computed_stays() {
        let laid = "input %x: f32[1,20,4,4]\n\
                    %a: f32[1,20,4,4] channels16h0 = reorder(%x)\n\
                    %b: f32[1,20,4,4] channels16h0 = elementwise(%a) expr=\"relu(a)\"\n\
                    %y: f32[1,20,4,4] = reorder(%b)\noutput %y as \"y\"";
        let mut graph = text::parse(laid).unwrap();
        graph.lay_in_rows();
        verify(&graph).unwrap();
        assert_eq!(graph.nodes.len(), 1);
        assert_eq!(graph.nodes[0].inputs, [Some(graph.inputs[0])]);
        assert_eq!(graph.outputs, [graph.nodes[0].outputs[0].unwrap()]);
    }
}
