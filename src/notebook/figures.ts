/** Interactive figures in a notebook, drawn by the page's own plotly. */
import { exportFigures as exportFiles } from '../figures/export';
import type { ExportResult } from '../figures/export';
import type { Figure, FigureSpec } from '../figures/spec';
import { display } from './kernel';
import type { MimeBundle } from './kernel';
import { withProgress } from './progress';

/** A figure as JupyterLab and VS Code take it. */
export function plotlyBundle({ data, layout, kind }: FigureSpec): MimeBundle {
  return {
    'application/vnd.plotly.v1+json': { data, layout, config: { displaylogo: false } },
    'text/plain': `${kind}: an interactive figure; this frontend has no renderer for plotly`,
  };
}

/**
 * Shows a figure, interactive: values under the pointer, zoom by dragging.
 * @throws ConfigError  outside a notebook
 */
export function showFigure(figure: Figure | FigureSpec): void {
  display(plotlyBundle('spec' in figure ? figure.spec : figure));
}

/**
 * Writes figures as `figures.exportFigures` does, under a progress bar; what it has to say is printed.
 * @throws as `figures.exportFigures`
 */
export async function exportFigures(figures: readonly Figure[], directory: string): Promise<ExportResult> {
  const total = figures.length;
  const result = await withProgress({ label: 'export', total, unit: 'figures' }, (progress) =>
    exportFiles(figures, directory, { onFigure: (done) => progress.update(done) }),
  );
  for (const line of [...result.notices, ...(result.reason === undefined ? [] : [result.reason])])
    process.stderr.write(`${line}\n`);
  return result;
}

/** Shows Markdown. @throws ConfigError  outside a notebook */
export function showMarkdown(text: string): void {
  display({ 'text/markdown': text, 'text/plain': text });
}
