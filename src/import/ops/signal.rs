//! Signals, random numbers and texts.

use super::{Op, op, same, semantics};

pub static OPS: &[Op] = &[
    op("Bernoulli", &["15 1 1 dtype:i seed:f"], same),
    op("BlackmanWindow", &["17 1 1 output_datatype:i periodic:i"], same),
    op("DFT", &["17 1-2 1 axis:i inverse:i onesided:i", "20 1-3 1 inverse:i onesided:i"], semantics::dft),
    op("HammingWindow", &["17 1 1 output_datatype:i periodic:i"], same),
    op("HannWindow", &["17 1 1 output_datatype:i periodic:i"], same),
    op("MelWeightMatrix", &["17 5 1 output_datatype:i"], same),
    op("Multinomial", &["7 1 1 dtype:i sample_size:i seed:f"], same),
    op("RandomNormal", &["1 0 1 dtype:i mean:f scale:f seed:f shape:is!"], same),
    op("RandomNormalLike", &["1 1 1 dtype:i mean:f scale:f seed:f"], same),
    op("RandomUniform", &["1 0 1 dtype:i high:f low:f seed:f shape:is!"], same),
    op("RandomUniformLike", &["1 1 1 dtype:i high:f low:f seed:f"], same),
    op("RegexFullMatch", &["20 1 1 pattern:s"], same),
    op("STFT", &["17 2-4 1 onesided:i"], same),
    op("StringConcat", &["20 2 1"], same),
    op("StringNormalizer", &["10 1 1 case_change_action:s is_case_sensitive:i locale:s stopwords:ss"], same),
    op("StringSplit", &["20 1 2 delimiter:s maxsplit:i"], same),
    op(
        "TfIdfVectorizer",
        &[
            "9 1 1 max_gram_length:i! max_skip_count:i! min_gram_length:i! mode:s! ngram_counts:is! ngram_indexes:is! pool_int64s:is pool_strings:ss weights:fs",
        ],
        same,
    ),
];
