export type Instruction = { name: string; value: string };
export function instructionsOf(text: string): Instruction[];
export function runDockerfile(options: {
  file: string;
  context: string;
  folder: string;
}): Promise<{ root: string; workdir: string; instructions: Instruction[] }>;
