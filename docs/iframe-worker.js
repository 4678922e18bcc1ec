// Browsers refuse workers to pages that are opened from a disk. There, run the search's worker in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      this.inside = frame.contentWindow
      this.inside.postMessage = data => this.answered(data)
      const script = this.inside.document.createElement("script")
      script.src = url
      this.loaded = new Promise(resolve => (script.onload = resolve))
      this.inside.document.head.append(script)
    }

    async postMessage(data) {
      await this.loaded
      this.inside.dispatchEvent(new MessageEvent("message", {data}))
    }

    answered(data) {
      const event = new MessageEvent("message", {data})
      this.onmessage?.(event)
      this.dispatchEvent(event)
    }

    terminate() {}
  }
}
