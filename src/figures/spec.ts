/**
 * What a figure is made of. The types are our own and minimal: plotly's would reach every user of this package
 * through its declarations, and the notebook kernel's compiler is older than they are.
 */

/** A value that JSON can hold; `undefined` stands for an attribute left out. */
export type Json = string | number | boolean | null | undefined | readonly Json[] | JsonObject;

/** An object that JSON can hold. */
export interface JsonObject {
  readonly [key: string]: Json;
}

/** One plotly trace. The exporter has plotly check every attribute, so a misspelt one is an error there. */
export interface Trace extends JsonObject {
  readonly type: 'scatter' | 'bar' | 'box' | 'heatmap';
}

/** A drawing that plotly can render: `kind` names the function that made it from result data. */
export interface FigureSpec {
  readonly kind: string;
  /** CSS pixels, 96 an inch: 672 is 7 inches in print. */
  readonly width: number;
  readonly height: number;
  readonly data: readonly Trace[];
  readonly layout: JsonObject;
}

/** A named figure: the drawing, and the result data that `drawFigure(spec.kind, data)` draws again. */
export interface Figure {
  /** The files' name without extension. */
  readonly name: string;
  readonly spec: FigureSpec;
  readonly data: object;
}
