/** Collects closing functions and runs them in reverse. Keeps the first error and still runs the rest. */
export type Releasers = {
  push(name: string, release: () => Promise<unknown> | unknown): void;
  releaseAll(): Promise<void>;
};

export function createReleasers(onError: (name: string, error: unknown) => void = () => {}): Releasers {
  const stack: { name: string; release: () => Promise<unknown> | unknown }[] = [];
  return {
    push(name, release) {
      stack.push({ name, release });
    },
    async releaseAll() {
      let first: { error: unknown } | undefined;
      for (let next = stack.pop(); next; next = stack.pop()) {
        try {
          await next.release();
        } catch (error) {
          first ??= { error };
          onError(next.name, error);
        }
      }
      if (first) throw first.error;
    },
  };
}
