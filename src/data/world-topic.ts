/**
 * One topic of the embedded world: word banks whose grammatical form is fixed, so that any phrase of a bank fits any
 * template that asks for that bank. Topics are narrow: every tip then suits every tweet of its topic.
 */
export interface Topic {
  readonly name: string;
  /** Singular count nouns that one picks, buys or uses: "Which {gear} do you use?" */
  readonly gear: readonly string[];
  /** Singular count nouns that things happen to: "My {part} looks sad." */
  readonly parts: readonly string[];
  /** Gerund phrases: "Three weeks of {doing}." */
  readonly doing: readonly string[];
  /** Bare verb phrases, a result one wants: "How do you {goal}?" */
  readonly goals: readonly string[];
  /** Bare verb phrases, a concrete act: "The trick is to {tip}." */
  readonly tips: readonly string[];
  /** Verb phrases in the past, for any person: "My sister {mishap}." */
  readonly mishaps: readonly string[];
  /** A claim and its opposite, clauses without a capital. */
  readonly views: ReadonlyArray<readonly [claim: string, opposite: string]>;
  /** Concrete statements, clauses without a capital: "Nobody tells you that {fact}." */
  readonly facts: readonly string[];
  /** Whole sentences. */
  readonly jokes: readonly string[];
}
