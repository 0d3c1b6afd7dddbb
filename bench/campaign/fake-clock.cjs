// Loaded into a run by NODE_OPTIONS: its date is wrong by CLOCK_SHIFT seconds, from the read of number CLOCK_AFTER on.
const Real = Date;
const [shift, after] = [Number(process.env.CLOCK_SHIFT ?? 0) * 1000, Number(process.env.CLOCK_AFTER ?? 0)];
let reads = 0;
const now = () => Real.now() + (reads++ >= after ? shift : 0);

globalThis.Date = new Proxy(Real, {
  construct: (target, args, self) => Reflect.construct(target, args.length === 0 ? [now()] : args, self),
  apply: () => new Real(now()).toString(),
  get: (target, key, self) => (key === 'now' ? now : Reflect.get(target, key, self)),
});
