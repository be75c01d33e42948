import fc from 'fast-check';

/** The seed of every random test, so that a commit that passed passes again; `FC_SEED` explores others (ADR 165). */
fc.configureGlobal({ seed: Number(process.env.FC_SEED ?? 20_261_126) });
