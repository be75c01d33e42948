import { z } from 'zod';

/** A node of a plan, as `explain (format json)` shows it. */
export type PlanNode = {
  'Node Type': string;
  'Total Cost': number;
  'Plan Rows': number;
  Schema?: string | undefined;
  'Relation Name'?: string | undefined;
  Plans?: PlanNode[] | undefined;
};
const PlanNode: z.ZodType<PlanNode> = z.object({
  'Node Type': z.string(),
  'Total Cost': z.number(),
  'Plan Rows': z.number(),
  Schema: z.string().optional(),
  'Relation Name': z.string().optional(),
  get Plans() {
    return z.array(PlanNode).optional();
  },
});

/** Returns a node and all below it. */
export const nodesOf = (plan: PlanNode): PlanNode[] => [plan, ...(plan.Plans ?? []).flatMap(nodesOf)];

/** The row with which `explain (format json)` answers. */
export const PlanRow = z.object({ 'QUERY PLAN': z.tuple([z.object({ Plan: PlanNode })]) });

/** What Citus asks its nodes, of which it may show one task only. A task without a plan reads what others have read. */
const Job = z.object({
  'Task Count': z.number(),
  Tasks: z.array(z.object({ 'Remote Plan': z.array(z.array(z.object({ Plan: PlanNode }))).default([]) })),
});

function jobsIn(plan: unknown): z.output<typeof Job>[] {
  if (typeof plan !== 'object' || plan === null) return [];
  return Object.entries(plan).flatMap(([name, value]) => (name === 'Job' ? [Job.parse(value)] : jobsIn(value)));
}

const plansOf = ({ Tasks }: z.output<typeof Job>): PlanNode[] =>
  Tasks.flatMap((task) => task['Remote Plan'].flat().map(({ Plan }) => Plan));

/** Returns the plans that the nodes of Citus gave, wherever they stand in its own plan. */
export const remotePlansIn = (plan: unknown): PlanNode[] => jobsIn(plan).flatMap(plansOf);

/** Returns how many rows a statement returns, by the statistics of Postgres or, on Citus, of its nodes. */
export function estimatedRows(row: unknown): number {
  const jobs = jobsIn(row);
  if (jobs.length === 0) return PlanRow.parse(row)['QUERY PLAN'][0].Plan['Plan Rows'];
  return jobs.reduce((rows, job) => {
    const shown = plansOf(job).reduce((sum, plan) => sum + plan['Plan Rows'], 0);
    return rows + (shown * job['Task Count']) / job.Tasks.length;
  }, 0);
}
